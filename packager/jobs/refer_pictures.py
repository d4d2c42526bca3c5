"""Run the reference model on prompts with pictures. A job because of its memory use.

The reference is the text model of transformers in fp32, which gets the features of the vision graph
in fp32 in place of the embeddings of a picture's tokens. It answers in its stored dtype if there is
no memory for more, and its probabilities are computed with one layer in memory at a time, as those
of texts are (`reference`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from device_runtime.durable import written_aside
from packager.jobs.job import Work
from packager.jobs.reference import Reference, ReferenceJob
from packager.weights.layerwise import LayerwiseModel

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn


class ReferPictures(ReferenceJob, frozen=True, kw_only=True):
    """Write what the reference model answers to prompts with pictures, and its probabilities.

    The file for prompt number n is `answer-n.npz` with `tokens` int64 `[tokens]` of its greedy
    answer, an end token included, `logprobs` float16 `[tokens, vocabulary]`, natural logarithms of
    its probabilities in these places, and `top1` int64 `[tokens]`, its first choices in fp32. The
    unit of progress is a prompt.

    Attributes:
        prompts: `prompts.npz` of a `MakePrompts` job.
        both_ways: as in `ExportedVision`.
        sections: likewise.
        max_tokens: maximum length of an answer.
    """

    prompts: Path
    both_ways: bool
    sections: tuple[int, ...] = ()
    max_tokens: int

    def run(self, work: Work) -> None:
        """Write the files. Started again on the same folder, it goes on with what is missing.

        Raises:
            ValueError: the model cannot be taken apart.
            JobRefusedError: the model's outputs are not numbers, or all the same.
        """
        reference = Reference(self, work)
        prompts = list(read_prompts(self.prompts, both_ways=self.both_ways, sections=self.sections))
        answers = [self._answer(reference, n, prompt, work) for n, prompt in enumerate(prompts)]
        # What follows has one layer in memory at a time.
        del reference
        model = LayerwiseModel(self.source, trust_remote_code=self.trust_remote_code)
        for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            path = work.target / f"answer-{number}.npz"
            if not path.exists():
                logprobs = _log_probabilities(model, prompt, answer)
                with written_aside(path) as file:
                    np.savez(
                        file,
                        tokens=np.array(answer),
                        logprobs=logprobs.astype(np.float16),
                        top1=logprobs.argmax(-1),
                    )
            work.advance(1)

    def _answer(
        self, reference: Reference, number: int, prompt: PicturePrompt, work: Work
    ) -> list[int]:
        """Answer a prompt greedily; the answer is stored for a job that is started again."""
        import torch

        path = work.target / f"tokens-{number}.json"
        if path.exists():
            tokens: list[int] = json.loads(path.read_text())
            return tokens
        tokens = []
        model = reference.model
        with torch.inference_mode(), prompt.positioned(model.get_decoder()):
            with prompt.placed(model.get_input_embeddings()):
                output = model(
                    input_ids=prompt.ids[None],
                    use_cache=True,
                    logits_to_keep=1,
                    **prompt.masks(model.config, model.dtype),
                )
            while True:
                tokens.append(int(output.logits[0, -1].argmax()))
                if tokens[-1] in reference.ends or len(tokens) == self.max_tokens:
                    break
                output = model(
                    input_ids=torch.tensor([tokens[-1:]]), past_key_values=output.past_key_values
                )
        with written_aside(path) as file:
            file.write(json.dumps(tokens).encode())
        return tokens


@dataclass(frozen=True, kw_only=True)
class PicturePrompt:
    """A prompt with a picture.

    Attributes:
        ids: token ids `[tokens]`; 0 for those of the picture.
        places: which of them are the picture's.
        features: what stands in these places `[tokens of the picture, width]`.
        both_ways: the tokens of a picture see each other, those that follow included.
        positions: positions of the prompt's tokens in time, rows and columns `[3, tokens]`; what
            follows goes on from the last.
        sections: as in `ExportedVision`.
    """

    ids: Tensor
    places: Tensor
    features: Tensor
    both_ways: bool
    positions: Tensor
    sections: tuple[int, ...] = ()

    def followed_by(self, tokens: list[int]) -> PicturePrompt:
        """Return the prompt with tokens of an answer behind it."""
        import torch

        more = torch.tensor(tokens, dtype=self.ids.dtype)
        return replace(
            self,
            ids=torch.cat([self.ids, more]),
            places=torch.cat([self.places, torch.zeros(len(tokens), dtype=torch.bool)]),
        )

    @contextmanager
    def placed(self, embedding: nn.Module) -> Iterator[None]:
        """Let an embedding give the features in their places, for the duration of the block."""

        def place(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            output = output.clone()
            output[0, self.places] = self.features.to(output.dtype)
            return output

        hook = embedding.register_forward_hook(place)
        try:
            yield
        finally:
            hook.remove()

    @contextmanager
    def positioned(self, decoder: Any) -> Iterator[None]:
        """Let a text model of one position a token take three, for the duration of the block."""
        if not self.sections:
            yield
            return
        import torch

        sizes = 2 * self.sections  # the second half of a head's numbers is rotated as the first
        last = self.positions.shape[1] - 1

        def rotate(module: Any, inputs: tuple[Tensor, Tensor], _output: Any) -> tuple[Tensor, ...]:
            hidden, (token,) = inputs
            following = self.positions.max() + token - last
            known = self.positions[:, token.clamp(max=last)]
            three = torch.where(token > last, following, known)
            tables = [module.forward(hidden, position[None]) for position in three]
            mixed = []
            for kind in zip(*tables, strict=True):  # cosines, then sines
                parts = [table.split(sizes, -1) for table in kind]
                mixed.append(torch.cat([parts[n % 3][n] for n in range(len(sizes))], -1))
            return tuple(mixed)

        hook = decoder.rotary_emb.register_forward_hook(rotate)
        try:
            yield
        finally:
            hook.remove()

    def masks(self, config: Any, dtype: Any) -> dict[str, Any]:
        """Return the arguments of the text model that say which tokens see which, if need be.

        Args:
            config: its configuration.
            dtype: type of its states.
        """
        import torch

        if not self.both_ways:
            return {}
        from transformers.models.gemma3 import modeling_gemma3

        blocks = modeling_gemma3.get_block_sequence_ids_for_mask(self.places[None].long())
        masks = modeling_gemma3.create_masks_for_vision_model(
            config=config,
            inputs_embeds=torch.empty(1, len(self.ids), 1, dtype=dtype),
            attention_mask=None,
            past_key_values=None,
            position_ids=None,
            block_sequence_ids=blocks,
        )
        return {"attention_mask": masks}


def read_prompts(
    path: Path, *, both_ways: bool, sections: tuple[int, ...] = ()
) -> Iterator[PicturePrompt]:
    """Read the prompts of a `MakePrompts` job."""
    import torch

    with np.load(path) as stored:
        for number in range(len(stored.files) // 4):
            places = stored[f"places.{number}"]
            ids = np.where(places, 0, stored[f"ids.{number}"])
            yield PicturePrompt(
                ids=torch.from_numpy(ids),
                places=torch.from_numpy(places),
                features=torch.from_numpy(stored[f"features.{number}"]),
                both_ways=both_ways,
                positions=torch.from_numpy(stored[f"positions.{number}"]),
                sections=sections,
            )


def _log_probabilities(
    model: LayerwiseModel, prompt: PicturePrompt, answer: list[int]
) -> NDArray[np.float32]:
    """Compute the logarithms of the probabilities of an answer's tokens `[tokens, vocabulary]`."""
    import torch

    whole = prompt.followed_by(answer[:-1])
    with whole.placed(model.embedding), whole.positioned(model.decoder):
        hidden = model.start(whole.ids[None], **whole.masks(model.config, torch.float32))
    for index in range(model.count):
        with model.layer(index):
            hidden = torch.cat(list(model.run(index, hidden)))
    with model.head() as head, torch.no_grad():
        logprobs = torch.log_softmax(head(hidden[0, -len(answer) :]), -1)
    result: NDArray[np.float32] = logprobs.numpy()
    return result
