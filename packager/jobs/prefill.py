"""Prefill of prompts of different lengths for transformers' `generate`.

That pads them all to the longest one, and what is padded is computed like text: of the prompts that
a model answers to write its calibration text, three tokens in four. And it copies the whole KV
cache for each token that is added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

PADDED = 1.25
"""Ratio of the longest to the shortest prompt that are padded and computed together: with fewer, a
pass costs as much as reading the weights."""


def prefill(model: Any, prompts: Sequence[Sequence[int]], new: int) -> Any:
    """Compute the KV cache of all but the last token of each prompt, those of similar length
    together.

    Args:
        model: causal language model of transformers.
        prompts: token ids.
        new: number of tokens to reserve memory for.

    Returns:
        Cache for `generate`, padded on the left to the longest prompt. None if the model keeps
        something else than the keys and values of all tokens, or a prompt is a single token.
    """
    import torch
    from transformers import Cache

    if min(map(len, prompts)) < 2:
        return None
    groups = list(_groups(prompts))
    length = max(map(len, prompts)) - 1
    caches = []
    for group in groups:
        ids, mask = padded([prompts[index][:-1] for index in group])
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        output = model.get_decoder()(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True
        )
        caches.append(output.past_key_values)
        if not _whole(caches[-1], ids.shape[1]):
            return None
    layers = []
    for index in range(len(caches[0].layers)):
        sides = []
        for side in ("keys", "values"):
            parts = [getattr(cache.layers[index], side) for cache in caches]
            _, heads, _, size = parts[0].shape
            whole = torch.empty(len(prompts), heads, length + new, size, dtype=parts[0].dtype)
            whole[:, :, :length] = 0
            for group, part in zip(groups, parts, strict=True):
                whole[group, :, length - part.shape[2] : length] = part
            sides.append(whole)
        layers.append(_layer(sides, length))
        for cache in caches:
            cache.layers[index] = None  # its memory
    return Cache(layers=layers)


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return token ids padded on the left, and their attention mask, `[rows, longest]`."""
    import torch

    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def _groups(prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield the indices of prompts of similar length."""
    group: list[int] = []
    for index in sorted(range(len(prompts)), key=lambda index: len(prompts[index])):
        if group and len(prompts[index]) > PADDED * len(prompts[group[0]]):
            yield group
            group = []
        group.append(index)
    yield group


def _layer(sides: Sequence[Tensor], length: int) -> Any:
    """Make a layer of a cache whose keys and values grow in the memory that they have.

    Args:
        sides: keys and values, `[prompts, heads, reserved, size]`.
        length: tokens that they hold.
    """
    from transformers.cache_utils import DynamicLayer

    layer: Any = DynamicLayer()
    layer.lazy_initialization(*sides)

    def update(keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        start = layer.get_seq_length()
        for side, added in zip(sides, (keys, values), strict=True):
            side[:, :, start : start + added.shape[2]] = added
        return hold(start + keys.shape[2])

    def hold(length: int) -> tuple[Tensor, Tensor]:
        layer.keys, layer.values = (side[:, :, :length] for side in sides)
        return layer.keys, layer.values

    hold(length)
    layer.update = update
    return layer


def _whole(cache: Any, length: int) -> bool:
    """Return whether a cache is each layer's keys and values of all tokens."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    layers = getattr(cache, "layers", ())  # models with code of their own may have another cache
    return bool(layers) and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer)
        and layer.is_initialized
        and layer.keys.shape[2] == length
        for layer in layers
    )
