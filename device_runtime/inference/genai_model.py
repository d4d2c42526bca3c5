"""A model in ONNX Runtime GenAI, with its tokenizer and adapters."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from device_runtime import memory
from device_runtime.errors import DeviceError, EngineError, RequestError
from device_runtime.inference.engine import (
    GenerationRequest,
    NoMemoryNowError,
    adapters,
    no_memory,
)
from device_runtime.inference.genai_library import (
    LONG_ROPE_FROM,
    Loading,
    Model,
    load_speech_model,
)
from device_runtime.inference.genai_objects import Generator, ImageProcessor, NamedTensors
from device_runtime.inference.genai_sequences import GenAISequences
from device_runtime.inference.grammar_cursor import GrammarCursor, Grammars
from device_runtime.inference.kv_cache import Tokens
from device_runtime.inference.onnx_session import OnnxSession
from device_runtime.inference.prompt_encoder import EncodedPrompt, PromptEncoder, texts
from device_runtime.inference.sequences import Sequences
from device_runtime.inference.text_sequences import TextSequences
from device_runtime.inference.thoughts import Stage, after_thoughts
from device_runtime.inference.vision_families import FAMILIES
from device_runtime.processor import Processor
from device_runtime.tokenizer.files import end_tokens
from device_runtime.tokenizer.templates import ChatTemplates
from device_runtime.tokenizer.tokenizer import TextStream, Tokenizer

if TYPE_CHECKING:
    from device_runtime.inference.vision_prompt import VisionPrompts

PROMPT_END = 96
"""Tokens at the end of a prompt in which a marker of thoughts is looked for."""

MIN_CAPACITY = 8
"""Smallest capacity of a KV cache, tokens; enough for the first run."""

ENGINE_HINT = "edgepack-runtime doctor reports what is missing or damaged."


class GenAIModel:
    """Model, tokenizer and adapters.

    Attributes:
        beams: True if the model can do a beam search.
        context_length: maximum length of prompt and answer together, tokens.
        prompts: encodes its prompts.
        end_tokens: ids of the tokens that end an answer.
        min_capacity: smallest capacity of a KV cache, tokens; ONNX Runtime GenAI needs that of
            the whole window of sliding-window attention.
        kv_bytes: size of the KV cache of one token; 0 where the model does not report it.
        state_bytes: size of the states of layers that have one instead of a KV cache, with a
            snapshot of it if the model needs one.
        snapshots: True if the model rewinds only to where a snapshot of its state was taken.
        sequences: what holds its KV caches.
        tokenizer: the model's tokenizer.
    """

    def __init__(
        self,
        folder: Path,
        *,
        context_length: int,
        threads: int,
        processor: Processor = Processor.CPU,
        loading: Loading | None = None,
    ) -> None:
        """Load the model.

        Args:
            folder: holds genai_config.json, the graph, the tokenizer and any adapters.
            context_length: maximum length of prompt and answer together, tokens.
            threads: number of ONNX Runtime threads; 0 for one a core.
            processor: processor that the model runs on.
            loading: the model, if it loads already.

        Raises:
            EngineError: the model does not load.
            ResourceError: memory is too short for it.
        """
        loading = loading or Loading(folder, threads, processor, context_length=context_length)
        self.tokenizer = Tokenizer(folder)
        try:
            model = loading.model()
            described = json.loads((folder / "genai_config.json").read_bytes())["model"]
            decoder = described["decoder"]
            self.context_length = context_length
            self.end_tokens = frozenset(ends := end_tokens(folder))
            own = isinstance(model, OnnxSession)
            self.min_capacity = (
                MIN_CAPACITY if own else memory.kv_cache_length(decoder, MIN_CAPACITY)
            )
            self.snapshots = "past_recurrent_names" in decoder["inputs"]
            self._sees = "vision" in described
            self._long_rope = described["type"].startswith("phi3")
            self.sequences: Sequences = (
                TextSequences(model, decoder, context_length, self.end_tokens)
                if isinstance(model, OnnxSession)
                else GenAISequences(
                    model, decoder, self.min_capacity, sees=self._sees, long_rope=self._long_rope
                )
            )
            self._adapter_names: set[str] = set()
            for name, path in adapters(folder).items():
                self.sequences.load_adapter(path, name)
                self._adapter_names.add(name)
            self.kv_bytes = self.sequences.token_bytes
            self.state_bytes = self.sequences.state_bytes * (2 if self.snapshots else 1)
            self.beams = (
                self.state_bytes == 0 and self.min_capacity == MIN_CAPACITY and not self._sees
            )
            vision = None
            if isinstance(model, Model) and self._sees and described["type"] in FAMILIES:
                vision = self._vision(model)
        except Exception as error:
            if memory.is_short(error):
                raise no_memory(error) from None
            problem = f"the model in {folder} does not load"
            if "cuda" in str(error).lower():
                problem = "this model needs an NVIDIA GPU, and none is usable here"
            elif "WebGPU execution provider is not supported" in str(error):
                problem = "ONNX Runtime lists no GPU: it knows those of PCI, and NVIDIA's nvgpu"
            raise EngineError(f"{problem}: {first_line(error)}", hint=ENGINE_HINT) from None
        self.prompts = PromptEncoder(
            tokenizer=self.tokenizer,
            templates=ChatTemplates.of(folder),
            vision=vision,
            vocabulary=self.sequences.vocabulary,
            context_length=context_length,
        )
        self._grammars = Grammars(
            self.tokenizer, vocabulary=self.sequences.vocabulary, end_tokens=ends
        )

    def at_once(self, length: int) -> bool:
        """Return whether a prompt and answer of this length must be prefilled at once."""
        return self._long_rope and length > LONG_ROPE_FROM

    def most(self, prompt_length: int) -> int:
        """Return the maximum length of a prompt of this length and its answer together, tokens."""
        if self._sees and self._long_rope and prompt_length <= LONG_ROPE_FROM:
            # Of a model that sees, the engine does not prefill the prompt again at that place.
            return min(LONG_ROPE_FROM, self.context_length)
        return self.context_length

    def generator(self, capacity: int, adapter: str, num_beams: int = 1) -> Any:
        """Create a generator with a KV cache of its own: greedy, or a beam search.

        Raises:
            RequestError: the adapter does not exist.
        """
        if adapter and adapter not in self._adapter_names:
            raise RequestError(f"the model has no adapter {adapter!r}")
        if adapter and self._sees:
            # The engine takes it, and answers without it.
            raise RequestError("adapters are not supported by models that see")
        return self.sequences.generator(capacity, adapter, num_beams)

    def inputs(self, prompt: EncodedPrompt) -> NamedTensors:
        """Return what `Generator.set_inputs` takes for a prompt with images."""
        return NamedTensors(prompt.images | {"input_ids": prompt.tokens[None]})

    def stream(self, request: GenerationRequest) -> TextStream:
        """Create a decoder of an answer: one token at a time into whole characters."""
        shown = [token for token, _ in request.shown]
        if request.thinking is not None:
            markers = (request.thinking.begin_tokens, request.thinking.end_tokens)
            shown += [token for marker in markers if len(marker) > 1 for token in marker]
        continues = request.continues or isinstance(request.prompt, str)
        return self.tokenizer.stream(continues=continues, shown=shown)

    def stage(self, request: GenerationRequest, prompt: Tokens) -> Stage:
        """Return the stage in which an answer to a prompt begins."""
        last = texts(prompt[-PROMPT_END:]).tolist()
        end = b"".join(map(self.tokenizer.bytes_of, last))
        return Stage.of(request.thinking, end.decode(errors="replace"))

    def grammar(self, request: GenerationRequest, stage: Stage) -> GrammarCursor | None:
        """Return the beginning of the grammar for answers that begin in this stage, if any.

        Raises:
            EngineError: the grammar does not compile.
        """
        special = self.tokenizer.special
        guidance = after_thoughts(request.guidance, request.thinking, stage, special)
        return None if guidance is None else self._grammars.compile(guidance)

    def _vision(self, model: Model) -> "VisionPrompts":
        # Pillow takes 10 MB, which a model without images has no use for.
        from device_runtime.inference.vision_prompt import VisionPrompts

        return VisionPrompts(model.type, self.tokenizer, ImageProcessor(model))


class GenAISpeechModel:
    """The graphs of a speech model, on the CPU.

    Attributes:
        context_length: maximum length of a text and what precedes it, tokens.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        """Load the graphs.

        Args:
            folder: holds genai_config.json and the graphs.
            threads: number of ONNX Runtime threads.

        Raises:
            Exception: they do not load.
        """
        self._model = load_speech_model(folder, threads)
        described = json.loads((folder / "genai_config.json").read_bytes())["model"]
        self.context_length: int = described["context_length"]

    def generator(self, features: npt.NDArray[np.float32], tokens: Sequence[int]) -> Any:
        """Encode a window of a recording, and begin its text.

        Args:
            features: the window, float32 [1, bands, frames].
            tokens: beginning of the text.

        Returns:
            A generator, which takes more tokens and gives logits.
        """
        generator = Generator(self._model, max_length=self.context_length, do_sample=False)
        generator.set_inputs(
            NamedTensors({"audio_features": features, "input_ids": np.array([tokens], np.int32)})
        )
        return generator


def failure(error: Exception, memory_hint: str) -> DeviceError:
    """Return the error for native code that failed.

    Args:
        error: the failure.
        memory_hint: what to do if memory is too short.
    """
    if memory.is_short(error):
        problem = f"the device ran out of memory: {first_line(error)}"
        return NoMemoryNowError(problem, hint=memory_hint)
    return EngineError(f"the model failed: {first_line(error)}", hint=ENGINE_HINT)


def first_line(error: Exception) -> str:
    """Return the first line of a native error: template errors continue with a code excerpt."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
