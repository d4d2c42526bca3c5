"""Names of the graph's nodes that recipes treat by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


HEAD = "/lm_head/MatMul"

EMBEDDING = "/model/embed_tokens/Gather"
