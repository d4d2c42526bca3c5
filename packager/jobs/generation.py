"""Greedy generation with an ONNX GenAI folder in ONNX Runtime GenAI."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from device_runtime.memory import kv_cache_length
from device_runtime.processor import cores
from device_runtime.tokenizer.files import chat_templates
from device_runtime.tokenizer.templates import ChatTemplates
from device_runtime.tokenizer.tokenizer import Tokenizer
from packager.jobs import logits

if TYPE_CHECKING:
    from numpy.typing import NDArray


def load(folder: Path) -> Any:
    """Load a folder into ONNX Runtime GenAI, with as many threads as a device takes by itself."""
    import onnxruntime_genai as og

    og.disable_telemetry_events()
    config = og.Config(str(folder))
    options = {"intra_op_num_threads": cores()}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
    return og.Model(config)


def respond(model: Any, tokenizer: Tokenizer, folder: Path, prompt: str, max_tokens: int) -> str:
    """Answer a prompt with a loaded model, through its folder's chat template if it has one.

    Raises:
        JobRefusedError: the model's outputs are not numbers, or all the same.
    """
    chat = bool(chat_templates(folder))
    if chat:
        prompt = ChatTemplates.of(folder).render([{"role": "user", "content": prompt}])
    # A template adds the start token; plain text needs it from the tokenizer.
    tokens = tokenizer.encode(prompt, special=not chat)
    runner = generator(model, folder, len(tokens) + max_tokens)
    prefill(runner, folder, tokens)
    for _ in range(max_tokens):
        if runner.is_done():
            break
        logits.check(runner.get_logits()[0, -1])
        runner.generate_next_token()
    return tokenizer.decode(runner.get_sequence(0)[len(tokens) :].tolist()).strip()


def prefill(runner: Any, folder: Path, tokens: Sequence[int]) -> None:
    """Give a new generator its prompt, text alone.

    Args:
        runner: the generator.
        folder: ONNX GenAI folder of its model.
        tokens: token ids.
    """
    import onnxruntime_genai as og

    if "vision" not in json.loads((folder / "genai_config.json").read_text())["model"]:
        runner.append_tokens(tokens)
        return
    # The engine sets up the features of images, none here, with the inputs alone.
    inputs = og.NamedTensors()
    inputs["input_ids"] = og.Tensor(np.array([tokens], np.int32))
    runner.set_inputs(inputs)


def generator(model: Any, folder: Path, tokens: int, **options: Any) -> Any:
    """Create a greedy generator of ONNX Runtime GenAI.

    Args:
        model: model loaded from the folder.
        folder: an ONNX GenAI folder.
        tokens: capacity of the KV cache, prompt and answer together. The cache may be longer, so
            the caller counts tokens.
        options: further search options.
    """
    import onnxruntime_genai as og

    decoder = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
    params = og.GeneratorParams(model)
    length = kv_cache_length(decoder, tokens)
    params.set_search_options(do_sample=False, max_length=length, **options)
    return og.Generator(model, params)


def forced(runner: Any, tokens: Sequence[int]) -> NDArray[np.float32]:
    """Compute the logits `[tokens, vocabulary]` that a generator gives for tokens to come.

    Args:
        runner: a generator that has read the prompt; afterwards it has read the tokens.
        tokens: token ids of an answer.
    """
    rows = []
    for token in tokens:
        rows.append(runner.get_logits()[0, -1].astype(np.float32))
        runner.append_tokens([token])
    return np.stack(rows)
