"""What the original model writes, and how it distributes its probability. Runs as a child process,
for the memory it takes:

    python -m packager.reference_child JOB FOLDER

JOB is a `Job` as JSON; FOLDER is filled as `evaluation_text.prepare` tells. Progress is on stdout,
`tokens N` for N tokens that went through the model; the last line is a JSON object, `refused` in it
says what is wrong with a text.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from packager.quantize.check import has_chat_template

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

MIN_FILE_WINDOWS = {"calibration": 1, "evaluation": 2}
RUN = 32
"""Tokens in a row from which on two texts have a passage in common, rather than a phrase."""


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """Where the windows of one set come from.

    Attributes:
        windows: how many, at most.
        prompts: what the model answers, until there is enough text.
        seed: of the sampling.
        file: a UTF-8 text instead; it may give fewer windows.
    """

    windows: int
    prompts: tuple[str, ...]
    seed: int
    file: str | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to do.

    Attributes:
        source: Hugging Face folder.
        window: tokens of a window.
        calibration: its text.
        evaluation: its text.
        shown: prompts to answer greedily.
        answer_tokens: length of these answers.
        trust_remote_code: run Python code that comes with the model.
    """

    source: str
    window: int
    calibration: Text
    evaluation: Text
    shown: tuple[str, ...]
    answer_tokens: int
    trust_remote_code: bool


class RefusedError(Exception):
    """A text will not do; the message is for the user."""


class Reference:
    """The original model in fp32, and its tokenizer."""

    def __init__(self, job: Job) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = Path(job.source)
        trust = job.trust_remote_code
        self.job = job
        self.chat = has_chat_template(folder)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust, padding_side="left"
        )
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=trust
        ).eval()
        ends = self.model.generation_config.eos_token_id
        self.ends: list[int] = [ends] if isinstance(ends, int) else list(ends or ())
        first = self.tokenizer("a")["input_ids"][:1]
        # Some models (Gemma) predict nothing sensible in a text that does not begin like that.
        self.start = first if first == [self.tokenizer.bos_token_id] else []

    def windows(self, name: str, text: Text) -> NDArray[np.int64]:
        """Cut a text into windows `[windows, window]`, each with the model's start token if it has
        one.

        Raises:
            RefusedError: a file is too short.
        """
        width = self.job.window - len(self.start)
        if text.file is None:
            stream = self.write(text, text.windows * width)
            count = text.windows
        else:
            content = Path(text.file).read_text(encoding="utf-8")
            stream = self.tokenizer(content, add_special_tokens=False, verbose=False)["input_ids"]
            count = min(text.windows, len(stream) // width)
            least = MIN_FILE_WINDOWS[name]
            if count < least:
                raise RefusedError(
                    f"{Path(text.file).name} is too short: {len(stream)} tokens, where "
                    f"{name} takes {least * width} or more"
                )
        # From all over a long file, not from its beginning.
        starts = [number * (len(stream) // count) for number in range(count)]
        return np.array([self.start + stream[at : at + width] for at in starts], np.int64)

    def write(self, text: Text, tokens: int) -> list[int]:
        """Let the model answer the prompts, again and again until there are enough tokens.

        Sampled from the model's own distribution, so that what is measured on it is the divergence
        along the paths that the original would take.
        """
        import torch

        # So long that one answer to each is usually enough, and shorter than a window.
        length = min(-(-tokens // len(text.prompts)), self.job.window - 1)
        stream: list[int] = []
        torch.manual_seed(text.seed)
        while len(stream) < tokens:
            for prompt, answer in self.answer(text.prompts, length, sample=True):
                stream += prompt + answer
        return stream[:tokens]

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
        settings: dict[str, Any] = {"do_sample": False}
        if sample:
            settings = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
        config = GenerationConfig(
            max_new_tokens=length, eos_token_id=self.ends or None, pad_token_id=0, **settings
        )
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=config,
                stopping_criteria=[_tell],
            )
        new = output[:, longest:].tolist()
        return [(one, self._until_end(answer)) for one, answer in zip(encoded, new, strict=True)]

    def encode(self, question: str) -> list[int]:
        """A question's token ids, through the chat template if there is one."""
        ids: list[int]
        if not self.chat:
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


def _tell(ids: Tensor, _scores: Any, **_: Any) -> Tensor:
    """A stopping criterion that never stops: transformers calls it at each step."""
    import torch

    sys.stdout.write(f"tokens {len(ids)}\n")
    return torch.zeros(len(ids), dtype=torch.bool)


def save_log_probabilities(reference: Reference, windows: NDArray[np.int64], folder: Path) -> None:
    """Write `logprobs.npy` and `top1.npy`, one window at a time.

    Half precision is enough: its rounding, at most 2^-11 of a logarithm, changes the KL divergence
    by less than 1e-6 nats once the probabilities are normalized again (`evaluate_child` does), and
    where two tokens are as likely as each other, `top1.npy` has the choice of fp32.
    """
    top1 = []
    # Written in order, not mapped: on a full disk a write fails with an error, a map with SIGBUS.
    with (folder / "logprobs.npy").open("wb") as file:
        for number, window in enumerate(windows):
            found = reference.log_probabilities(window)
            if number == 0:
                shape = (len(windows), *found.shape)
                header = {"descr": "<f2", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_2_0(file, header)
            top1.append(found.argmax(-1).numpy())
            file.write(found.numpy().astype("<f2").tobytes())
            sys.stdout.write(f"tokens {len(window)}\n")
    np.save(folder / "top1.npy", np.stack(top1))


def check_disjoint(calibration: NDArray[np.int64], evaluation: NDArray[np.int64]) -> None:
    """Refuse an evaluation text that the calibration text contains, wherever windows begin.

    Raises:
        RefusedError: most of an evaluation window is in the calibration windows.
    """
    known = {run for window in calibration for run in _runs(window)}
    for number, window in enumerate(evaluation):
        runs = list(_runs(window))
        if 2 * sum(run in known for run in runs) > len(runs):
            raise RefusedError(
                f"the texts overlap: window {number + 1} of the evaluation text is in the "
                "calibration text"
            )


def _runs(window: NDArray[np.int64]) -> list[bytes]:
    return [window[at : at + RUN].tobytes() for at in range(len(window) - RUN + 1)]


def make(job: Job, folder: Path) -> None:
    """Fill the folder.

    Raises:
        RefusedError: a text will not do.
    """
    reference = Reference(job)
    calibration = reference.windows("calibration", job.calibration)
    evaluation = reference.windows("evaluation", job.evaluation)
    if job.calibration.file or job.evaluation.file:
        check_disjoint(calibration, evaluation)
    np.save(folder / "calibration.npy", calibration)
    np.save(folder / "evaluation.npy", evaluation)
    save_log_probabilities(reference, evaluation, folder)
    shown = []
    found = reference.answer(job.shown, job.answer_tokens, sample=False)
    for prompt, (_, ids) in zip(job.shown, found, strict=True):
        answer = reference.tokenizer.decode(ids, skip_special_tokens=True).strip()
        plain = reference.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        shown.append({"prompt": prompt, "tokens": plain, "answer": answer})
    (folder / "answers.json").write_text(json.dumps(shown))


if __name__ == "__main__":
    result = {}
    try:
        make(msgspec.json.decode(sys.argv[1], type=Job), Path(sys.argv[2]))
    except RefusedError as error:
        result["refused"] = str(error)
    sys.stdout.write("\n" + json.dumps(result) + "\n")
