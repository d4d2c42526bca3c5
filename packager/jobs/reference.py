"""Run the reference model: generate text, and store probabilities. Jobs because of its memory use.

Their unit of progress is a token processed by the model. Started again on the same folder, a job
continues with the batch of answers, or the layer, that it was at.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from device_runtime.durable import written_aside
from device_runtime.tokenizer.files import chat_templates
from packager import machine
from packager.jobs import logits
from packager.jobs.job import Job, JobRefusedError, Work
from packager.jobs.prefill import padded, prefill
from packager.weights import states
from packager.weights.layerwise import ROWS, LayerwiseModel
from packager.weights.mapped import MappedLayers

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

SAMPLING = {"do_sample": True, "temperature": 0.7, "top_p": 0.95, "top_k": 0}
"""Common settings for chats. Sampling from a small model's whole distribution gives a chain of
unlikely tokens that no user would see; greedy decoding repeats itself."""

ELSEWHERE = 600_000_000
"""Memory for what is not in a model's layers: embedding, head, the libraries' code, and what grows
until it is looked at again."""

Turn = tuple[list[int], list[int]]
"""Token ids of an encoded question and of its answer, end token included."""


class ReferenceJob(Job[None], frozen=True, kw_only=True):
    """Fields common to the jobs of a reference model.

    Attributes:
        source: Hugging Face folder.
        floats: generate in fp32 instead of the model's stored dtype.
        trust_remote_code: run Python code that comes with the model.
    """

    source: Path
    floats: bool
    trust_remote_code: bool


class Cut(ReferenceJob, frozen=True, kw_only=True):
    """Cut a UTF-8 text into windows, `windows.npy`: int64 `[windows, window]`.

    Attributes:
        text: the text file.
        least: minimum number of windows.
        most: maximum number of windows.
        window: tokens in a window.
    """

    text: Path
    least: int
    most: int
    window: int

    def run(self, work: Work) -> None:
        """Cut the text.

        Raises:
            JobRefusedError: the text is too short.
        """
        np.save(work.target / "windows.npy", Reference(self, work).cut(self))


class Write(ReferenceJob, frozen=True, kw_only=True):
    """Generate the text with the model and cut it into windows, `windows.npy`, as `Cut` does.

    Attributes:
        prompts: prompts to answer until there is enough text.
        at_once: batch size: prompts answered together.
        seed: seed of the sampling.
        windows: number of windows.
        window: tokens in a window.
    """

    prompts: tuple[str, ...]
    at_once: int
    seed: int
    windows: int
    window: int

    def run(self, work: Work) -> None:
        """Generate the text."""
        np.save(work.target / "windows.npy", Reference(self, work).write(self))


class Questions(msgspec.Struct, frozen=True, kw_only=True):
    """Prompts to answer greedily.

    Attributes:
        prompts: the prompts.
        max_tokens: maximum length of an answer.
    """

    prompts: tuple[str, ...]
    max_tokens: int


class Refer(ReferenceJob, frozen=True, kw_only=True):
    """Write `logprobs.npy`, `top1.npy` and `answers.json`; `texts.prepare` describes them.

    Attributes:
        windows: `windows.npy` of a `Cut` or `Write` job.
        questions: prompts to answer.
        at_once: batch size: prompts answered together.
    """

    windows: Path
    questions: tuple[Questions, ...]
    at_once: int

    def run(self, work: Work) -> None:
        """Write the files.

        Raises:
            ValueError: the model cannot be taken apart.
            OSError: the disk is full.
        """
        # The answers first: what a process has allocated once leaves less room for the weights.
        (work.target / "answers.json").write_text(json.dumps(list(self._answers(work))))
        model = LayerwiseModel(self.source, trust_remote_code=self.trust_remote_code)
        save_log_probabilities(model, np.load(self.windows), work)

    def _answers(self, work: Work) -> Iterator[dict[str, Any]]:
        """Yield each prompt with its token ids, the answer and the answer's maximum length."""
        reference = Reference(self, work)
        asked = [(prompt, of.max_tokens) for of in self.questions for prompt in of.prompts]
        for at in range(0, len(asked), self.at_once):
            prompts, lengths = zip(*asked[at : at + self.at_once], strict=True)
            answers = reference.answer(prompts, lengths, sample=False)
            for prompt, length, (_, ids) in zip(prompts, lengths, answers, strict=True):
                yield {
                    "prompt": prompt,
                    "tokens": reference.tokenizer(prompt, add_special_tokens=False)["input_ids"],
                    "answer": reference.tokenizer.decode(ids, skip_special_tokens=True).strip(),
                    "max_tokens": length,
                }


class Reference:
    """The reference model and its tokenizer."""

    def __init__(self, job: ReferenceJob, work: Work) -> None:
        from transformers import AutoTokenizer

        self._folder, self._trust = job.source, job.trust_remote_code
        self._floats, self._work = job.floats, work
        self._batches = itertools.count()
        self._layers: MappedLayers | None = None
        self.tokenizer: Any = AutoTokenizer.from_pretrained(
            self._folder, trust_remote_code=self._trust
        )

    @cached_property
    def model(self) -> Any:
        """The model, loaded on first use.

        Raises:
            JobRefusedError: the model's outputs are not numbers, or all the same.
        """
        import torch
        from transformers import AutoModelForCausalLM

        # In its stored dtype, a model is mapped from its file and needs no anonymous memory.
        dtype = torch.float32 if self._floats else "auto"
        model = AutoModelForCausalLM.from_pretrained(
            self._folder, dtype=dtype, trust_remote_code=self._trust
        ).eval()
        self._layers = MappedLayers(model.get_decoder().layers, _room())
        with torch.inference_mode():
            # Sampling from such logits would end in an error of torch's.
            tokens = torch.tensor([self.encode("What is this?")])
            logits.check(model(input_ids=tokens).logits.float().numpy())
        return model

    @cached_property
    def ends(self) -> list[int]:
        """The tokens that end an answer."""
        ends = self.model.generation_config.eos_token_id
        return [ends] if isinstance(ends, int) else list(ends or ())

    @cached_property
    def start(self) -> list[int]:
        """The token that the tokenizer puts before a text: the start token, or none.

        Some models (Gemma) predict nothing sensible in a text without it.
        """
        first: list[int] = self.tokenizer("a")["input_ids"][:1]
        return first if first == [self.tokenizer.bos_token_id] else []

    def cut(self, job: Cut) -> NDArray[np.int64]:
        """Cut evenly spaced windows, int64 `[windows, window]`, from a file.

        Raises:
            JobRefusedError: the file is too short.
        """
        text = job.text.read_text(encoding="utf-8")
        tokens = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        width = job.window - len(self.start)
        count = min(job.most, len(tokens) // width)
        if count < job.least:
            raise JobRefusedError(
                f"{job.text.name} is too short: it has {len(tokens)} tokens, at least "
                f"{job.least * width} are needed",
                hint="Use a longer text.",
            )
        return self._windows(tokens, count, width)

    def write(self, job: Write) -> NDArray[np.int64]:
        """Answer the prompts repeatedly until there are enough tokens, and cut them into windows.

        Returns:
            int64 `[windows, window]`.
        """
        import torch

        width = job.window - len(self.start)
        needed = job.windows * width
        encoded = [self.encode(prompt) for prompt in job.prompts]
        # Long enough that about one answer to each prompt suffices: then all prompts contribute.
        longest = max(self._length(encoded, needed), job.window // 4)
        tokens: list[int] = []
        count, length = len(encoded), longest
        torch.manual_seed(job.seed)
        while len(tokens) < needed:
            for at in range(0, count, job.at_once):
                asked = job.prompts[at : min(at + job.at_once, count)]
                for turn in self.answer(asked, [length] * len(asked), sample=True):
                    tokens += [*turn[0], *turn[1]]
            # Answers that ended early leave a gap. Few long answers would fill it as slowly as all
            # have filled the rest: half as long, with as many prompts as that takes.
            missing = needed - len(tokens)
            usual = sum(map(len, encoded)) / len(encoded) + longest / 2
            count = max(1, min(math.ceil(missing / usual), len(encoded)))
            length = max(1, min(self._length(encoded[:count], missing), longest))
        return self._windows(tokens[:needed], job.windows, width)

    @staticmethod
    def _length(prompts: Sequence[list[int]], tokens: int) -> int:
        """Return the length of the answers that, together with their prompts, are some tokens."""
        return math.ceil((tokens - sum(map(len, prompts))) / len(prompts))

    def answer(
        self, questions: Sequence[str], lengths: Sequence[int], *, sample: bool
    ) -> list[Turn]:
        """Answer questions together; answers are stored for a job that is started again.

        Args:
            questions: the questions.
            lengths: maximum length of the answer to each of them, tokens.
            sample: draw tokens at random; otherwise the most likely ones.

        Returns:
            The token ids of each encoded question and of its answer, end token included.
        """
        import torch

        path = self._work.target / f"batch-{next(self._batches):03}.json"
        if path.exists():
            kept = json.loads(path.read_text())
            torch.set_rng_state(torch.tensor(kept["random"], dtype=torch.uint8))
            turns = [(question, answer) for question, answer in kept["turns"]]
            self._work.advance(sum(len(answer) for _, answer in turns))
            return turns
        turns = self._generate(questions, lengths, sample=sample)
        kept = {"turns": turns, "random": torch.get_rng_state().tolist()}
        with written_aside(path) as file:
            file.write(json.dumps(kept).encode())
        return turns

    def _windows(self, tokens: list[int], count: int, width: int) -> NDArray[np.int64]:
        starts = [number * (len(tokens) // count) for number in range(count)]
        return np.array([self.start + tokens[at : at + width] for at in starts], np.int64)

    def _generate(
        self, questions: Sequence[str], lengths: Sequence[int], *, sample: bool
    ) -> list[Turn]:
        import torch
        from transformers import GenerationConfig

        encoded = [self.encode(question) for question in questions]
        ids, mask = padded(encoded)
        longest = ids.shape[1]
        settings: dict[str, Any] = SAMPLING if sample else {"do_sample": False}
        config = GenerationConfig(
            max_new_tokens=max(lengths), eos_token_id=self.ends or None, pad_token_id=0, **settings
        )
        model = self.model

        def after_step(ids: Tensor, _scores: Any, **_: Any) -> Tensor:
            """Stop each answer at its length: a stopping criterion."""
            new = ids.shape[1] - longest
            self._work.advance(sum(length >= new for length in lengths))
            if self._layers is not None:
                self._layers.fit(_room())
            return torch.tensor([length <= new for length in lengths])

        with torch.inference_mode():
            output = model.generate(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=prefill(model, encoded, max(lengths)),
                generation_config=config,
                stopping_criteria=[after_step],
            )
        new = output[:, longest:].tolist()
        return [
            (row, self._until_end(answer[:length]))
            for row, answer, length in zip(encoded, new, lengths, strict=True)
        ]

    def encode(self, question: str) -> list[int]:
        """Return the token ids of a question, through the chat template if the model has one."""
        ids: list[int]
        if not chat_templates(self._folder):
            ids = self.tokenizer(question)["input_ids"]
            return ids
        messages = [{"role": "user", "content": question}]
        text = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _until_end(self, answer: list[int]) -> list[int]:
        ends = [at for at, token in enumerate(answer) if token in self.ends]
        return answer[: ends[0] + 1] if ends else answer


def _room() -> int:
    """Return the memory that the weights of a model's layers may take, bytes."""
    return machine.memory_available() - ELSEWHERE


def save_log_probabilities(model: LayerwiseModel, windows: NDArray[np.int64], work: Work) -> None:
    """Write `logprobs.npy` and `top1.npy`, with one layer in memory at a time, in fp32.

    Half precision is enough to store: its rounding, at most 2^-11 of a logarithm, changes the KL
    divergence by less than 1e-6 nats once the probabilities are renormalized (`measure` does), and
    where two tokens are equally likely, `top1.npy` has the choice of fp32.
    """
    import torch

    hidden = _last_outputs(model, torch.from_numpy(windows), work)
    top1 = []
    # Written in order, not mapped: on a full disk a write fails with an error, a map with SIGBUS.
    with (
        (work.target / "logprobs.npy").open("wb") as file,
        model.head() as head,
        torch.no_grad(),
    ):
        for number, window in enumerate(hidden):
            # The last token predicts nothing that is in the window.
            for rows in torch.split(window[:-1], ROWS):
                logprobs = torch.log_softmax(head(rows), -1)
                if number == 0 and file.tell() == 0:
                    shape = (len(hidden), len(window) - 1, logprobs.shape[-1])
                    header = {"descr": "<f2", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_2_0(file, header)
                top1.append(logprobs.argmax(-1).numpy())
                file.write(logprobs.numpy().astype("<f2").tobytes())
    np.save(work.target / "top1.npy", np.concatenate(top1).reshape(len(windows), -1))


def _last_outputs(model: LayerwiseModel, windows: Tensor, work: Work) -> Tensor:
    """Compute the last layer's outputs, `[windows, length, hidden]`."""
    import torch

    done, hidden = states.resume(work.target, model.start(windows))
    for index in range(model.count):
        if index >= done:
            with model.layer(index):
                hidden = torch.cat(list(model.run(index, hidden)))
            states.keep(work.target, index + 1, hidden)
        total = windows.numel()
        work.advance(total * (index + 1) // model.count - total * index // model.count)
    return hidden
