"""Run the reference model: let it write, and note its probabilities. Jobs for its memory.

Their progress is the number of tokens that went through the model.
"""

from __future__ import annotations

import json
import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from packager.jobs import chat
from packager.jobs.job import Job, RefusedError, Work

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

SAMPLING = {"do_sample": True, "temperature": 0.7, "top_p": 0.95, "top_k": 0}
"""What chats commonly use. With all of a small model's distribution its text becomes a chain of
unlikely tokens that no user sees; greedily it repeats itself."""


class _FromOriginal(Job[None], frozen=True, kw_only=True):
    """Fields of all these jobs.

    Attributes:
        source: Hugging Face folder.
        floats: compute in fp32, not in the type that the model is stored in.
        trust_remote_code: run Python code that comes with the model.
    """

    source: Path
    floats: bool
    trust_remote_code: bool


class Cut(_FromOriginal, frozen=True, kw_only=True):
    """Cut a UTF-8 text into windows, `windows.npy`: int64 `[windows, window]`.

    Attributes:
        text: the file.
        least: fewer windows are too few.
        most: more are not taken.
        window: tokens of a window.
    """

    text: Path
    least: int
    most: int
    window: int

    def run(self, work: Work) -> None:
        """Cut it.

        Raises:
            RefusedError: it is too short.
        """
        np.save(work.target / "windows.npy", Reference(self, work).cut(self))


class Write(_FromOriginal, frozen=True, kw_only=True):
    """Let the model write the text, and cut that: `windows.npy` likewise.

    Attributes:
        prompts: what it answers, until there is enough text.
        at_once: how many of them it answers together.
        seed: of the sampling.
        windows: how many.
        window: tokens of a window.
    """

    prompts: tuple[str, ...]
    at_once: int
    seed: int
    windows: int
    window: int

    def run(self, work: Work) -> None:
        """Let it write."""
        np.save(work.target / "windows.npy", Reference(self, work).write(self))


class Refer(_FromOriginal, frozen=True, kw_only=True):
    """Write `logprobs.npy`, `top1.npy` and `answers.json`, as `evaluation_text.prepare` tells.

    Attributes:
        windows: file that a `Cut` or `Write` has made.
        shown: prompts to answer greedily.
        answer_tokens: length of these answers.
    """

    windows: Path
    shown: tuple[str, ...]
    answer_tokens: int

    def run(self, work: Work) -> None:
        """Write them."""
        reference = Reference(self, work)
        save_log_probabilities(reference, np.load(self.windows), work)
        shown = []
        answers = reference.answer(self.shown, self.answer_tokens, sample=False)
        for prompt, (_, ids) in zip(self.shown, answers, strict=True):
            answer = reference.tokenizer.decode(ids, skip_special_tokens=True).strip()
            plain = reference.tokenizer(prompt, add_special_tokens=False)["input_ids"]
            shown.append({"prompt": prompt, "tokens": plain, "answer": answer})
        (work.target / "answers.json").write_text(json.dumps(shown))


class Reference:
    """The original model and its tokenizer."""

    def __init__(self, job: _FromOriginal, work: Work) -> None:
        from transformers import AutoTokenizer

        self._folder, self._trust = job.source, job.trust_remote_code
        self._floats, self._advance = job.floats, work.advance
        self.tokenizer: Any = AutoTokenizer.from_pretrained(
            self._folder, trust_remote_code=self._trust
        )

    @cached_property
    def model(self) -> Any:
        """The model; read when it is first needed."""
        import torch
        from transformers import AutoModelForCausalLM

        # In the type it is stored in, a model is mapped from its file and takes no memory.
        dtype = torch.float32 if self._floats else "auto"
        return AutoModelForCausalLM.from_pretrained(
            self._folder, dtype=dtype, trust_remote_code=self._trust
        ).eval()

    @cached_property
    def ends(self) -> list[int]:
        """The tokens that end an answer."""
        ends = self.model.generation_config.eos_token_id
        return [ends] if isinstance(ends, int) else list(ends or ())

    @cached_property
    def start(self) -> list[int]:
        """What the tokenizer puts before a text: the start token, or nothing.

        Some models (Gemma) predict nothing sensible in a text that does not begin like that.
        """
        first: list[int] = self.tokenizer("a")["input_ids"][:1]
        return first if first == [self.tokenizer.bos_token_id] else []

    def cut(self, job: Cut) -> NDArray[np.int64]:
        """Windows from all over a file, int64 `[windows, window]`.

        Raises:
            RefusedError: it is too short.
        """
        text = job.text.read_text(encoding="utf-8")
        tokens = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        width = job.window - len(self.start)
        count = min(job.most, len(tokens) // width)
        if count < job.least:
            raise RefusedError(
                f"{job.text.name} is too short: it has {len(tokens)} tokens, where "
                f"{job.least * width} are the least",
                hint="Give a longer text.",
            )
        return self._windows(tokens, count, width)

    def write(self, job: Write) -> NDArray[np.int64]:
        """Let the model answer the prompts, again and again until there are enough tokens; cut it.

        Returns:
            int64 `[windows, window]`.
        """
        import torch

        width = job.window - len(self.start)
        wanted = job.windows * width
        # So long that one answer to each is about enough: then all prompts have their part.
        asked = sum(len(self.encode(prompt)) for prompt in job.prompts)
        length = max((wanted - asked) // len(job.prompts), job.window // 4)
        tokens: list[int] = []
        questions = job.prompts
        torch.manual_seed(job.seed)
        while len(tokens) < wanted:
            found = [
                each
                for at in range(0, len(questions), job.at_once)
                for each in self.answer(questions[at : at + job.at_once], length, sample=True)
            ]
            tokens += [token for prompt, answer in found for token in prompt + answer]
            # Answers that ended early leave some to be written: ask as many again as that takes.
            missing = (wanted - len(tokens)) * len(found) / sum(len(p + a) for p, a in found)
            questions = job.prompts[: max(math.ceil(missing), 1)]
        return self._windows(tokens[:wanted], job.windows, width)

    def _windows(self, tokens: list[int], count: int, width: int) -> NDArray[np.int64]:
        starts = [number * (len(tokens) // count) for number in range(count)]
        return np.array([self.start + tokens[at : at + width] for at in starts], np.int64)

    def answer(
        self, questions: tuple[str, ...], length: int, *, sample: bool
    ) -> list[tuple[list[int], list[int]]]:
        """Token ids of each question, as the model reads it, and of its answer with its end."""
        import torch
        from transformers import GenerationConfig

        encoded = [self.encode(question) for question in questions]
        longest = max(map(len, encoded))
        ids = torch.tensor([[0] * (longest - len(one)) + one for one in encoded])
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in encoded])
        settings: dict[str, Any] = SAMPLING if sample else {"do_sample": False}
        config = GenerationConfig(
            max_new_tokens=length, eos_token_id=self.ends or None, pad_token_id=0, **settings
        )
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=config,
                stopping_criteria=[self._count],
            )
        new = output[:, longest:].tolist()
        return [(one, self._until_end(answer)) for one, answer in zip(encoded, new, strict=True)]

    def _count(self, ids: Tensor, _scores: Any, **_: Any) -> Tensor:
        """A stopping criterion that never stops: transformers calls it at each step."""
        import torch

        self._advance(len(ids))
        return torch.zeros(len(ids), dtype=torch.bool)

    def encode(self, question: str) -> list[int]:
        """A question's token ids, through the chat template if there is one."""
        ids: list[int]
        if not chat.has_template(self._folder):
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

    def log_probabilities(self, window: NDArray[np.int64]) -> Tensor:
        """float32 `[window - 1, vocabulary]`: of the tokens that follow, natural logarithms."""
        import torch

        with torch.inference_mode():
            logits = self.model(input_ids=torch.from_numpy(window)[None]).logits
            return torch.log_softmax(logits[0, :-1].float(), -1)


def save_log_probabilities(reference: Reference, windows: NDArray[np.int64], work: Work) -> None:
    """Write `logprobs.npy` and `top1.npy`, one window at a time.

    Half precision is enough: its rounding, at most 2^-11 of a logarithm, changes the KL divergence
    by less than 1e-6 nats once the probabilities are normalized again (`measure` does), and
    where two tokens are as likely as each other, `top1.npy` has the choice of fp32.
    """
    top1 = []
    # Written in order, not mapped: on a full disk a write fails with an error, a map with SIGBUS.
    with (work.target / "logprobs.npy").open("wb") as file:
        for number, window in enumerate(windows):
            found = reference.log_probabilities(window)
            if number == 0:
                shape = (len(windows), *found.shape)
                header = {"descr": "<f2", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_2_0(file, header)
            top1.append(found.argmax(-1).numpy())
            file.write(found.numpy().astype("<f2").tobytes())
            work.advance(len(window))
    np.save(work.target / "top1.npy", np.stack(top1))
