"""Run the reference of a speech model: transformers in fp32. A job because of its memory use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from packager.jobs import logits, recordings
from packager.jobs.divergence import log_softmax
from packager.jobs.job import Job, Work

if TYPE_CHECKING:
    from torch import Tensor

    from packager.jobs.recordings import Recording


class ReferSpeech(Job[None], frozen=True, kw_only=True):
    """Write the probabilities that the reference model gives the texts of recordings.

    The file for recording number n is `reference-n.npz`: `features` float32 `[1, bands, frames]`,
    its spectrogram; `prompt` int64 `[tokens]`, the tokens before the text; `tokens` int64
    `[tokens]` of the text, the end included; `logprobs` float16 `[tokens, vocabulary]`, natural
    logarithms of the reference model's probabilities in their places; and `top1` int64 `[tokens]`,
    its first choices in fp32. The unit of progress is a recording.

    Attributes:
        source: Hugging Face folder.
        generation: content of its generation_config.json.
        bands: bands of its spectrograms.
        recordings: folder of recordings and `recordings.INDEX`.
        max_tokens: maximum length of a text that the reference model writes itself.
    """

    source: Path
    generation: dict[str, Any]
    bands: int
    recordings: Path
    max_tokens: int

    def run(self, work: Work) -> None:
        """Write the files.

        Raises:
            JobRefusedError: the model's outputs are not numbers, or all the same.
        """
        import torch

        reference = _Reference(self)
        for number, recording in enumerate(recordings.listed(self.recordings)):
            with torch.inference_mode():
                heard = reference.hear(self.recordings / recording.file)
                prompt = reference.prompt(heard, recording)
                tokens = reference.text(heard, prompt, recording, self.max_tokens)
                rows = reference.logits(heard, [*prompt, *tokens[:-1]])[len(prompt) - 1 :]
            logits.check(rows)
            np.savez(
                work.target / f"reference-{number}.npz",
                features=reference.features,
                prompt=np.array(prompt),
                tokens=np.array(tokens),
                logprobs=log_softmax(rows).astype(np.float16),
                top1=rows.argmax(-1),
            )
            work.advance(1)


class _Reference:
    """The reference model, and the spectrogram that it heard last."""

    def __init__(self, job: ReferSpeech) -> None:
        import torch
        from transformers import (
            AutoTokenizer,
            WhisperFeatureExtractor,
            WhisperForConditionalGeneration,
        )

        self._model = WhisperForConditionalGeneration.from_pretrained(
            job.source, dtype=torch.float32
        )
        self._extract = WhisperFeatureExtractor(feature_size=job.bands)
        self._tokenizer = AutoTokenizer.from_pretrained(job.source)
        self._settings = job.generation
        self.features: Any = None

    def hear(self, file: Path) -> Any:
        """Encode a recording, its first 30 seconds."""
        import torch

        self.features = self._extract(
            recordings.read(file), sampling_rate=recordings.RATE, return_tensors="np"
        ).input_features
        return self._model.get_encoder()(torch.from_numpy(self.features))

    def logits(self, heard: Any, tokens: list[int]) -> Any:
        """Compute the logits behind each of some tokens, float32 `[tokens, vocabulary]`."""
        return self._run(heard, tokens)[0].numpy()

    def prompt(self, heard: Any, recording: Recording) -> list[int]:
        """Return the tokens before the text: the language and the task, without times."""
        settings = self._settings
        begin, end = [settings["decoder_start_token_id"]], [settings["no_timestamps_token_id"]]
        if not settings["is_multilingual"]:
            return begin + end
        language = settings["lang_to_id"].get(f"<|{recording.language}|>")
        if language is None:
            known = sorted(settings["lang_to_id"].values())
            language = known[int(self._run(heard, begin)[0, -1, known].argmax())]
        return [*begin, language, settings["task_to_id"]["transcribe"], *end]

    def text(
        self, heard: Any, prompt: list[int], recording: Recording, max_tokens: int
    ) -> list[int]:
        """Return the tokens of a recording's text, the end included.

        A text that the reference model writes itself has no tokens that a device leaves out.
        """
        import torch

        settings = self._settings
        end = settings["eos_token_id"]
        if recording.text:
            text = self._tokenizer.encode(f" {recording.text}", add_special_tokens=False)
            return [*text, end]
        tokens: list[int] = []
        output = self._model(encoder_outputs=heard, decoder_input_ids=torch.tensor([prompt]))
        while len(tokens) < max_tokens:
            row = output.logits[0, -1]
            row[settings["suppress_tokens"]] = -torch.inf
            row[settings["no_timestamps_token_id"] :] = -torch.inf
            if not tokens:
                row[settings["begin_suppress_tokens"]] = -torch.inf
            tokens.append(int(row.argmax()))
            if tokens[-1] == end:
                break
            output = self._model(
                encoder_outputs=heard,
                decoder_input_ids=torch.tensor([tokens[-1:]]),
                past_key_values=output.past_key_values,
            )
        return tokens

    def _run(self, heard: Any, tokens: list[int]) -> Tensor:
        import torch

        output = self._model(encoder_outputs=heard, decoder_input_ids=torch.tensor([tokens]))
        logits: Tensor = output.logits
        return logits
