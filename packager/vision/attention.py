"""Attention of vision towers as one operator of ONNX Runtime.

Exported as transformers computes it, the attention of a layer holds a number for each pair of
patches and each head: 1 GB for the 4,096 patches of Gemma 3. `MultiHeadAttention` works in tiles.
"""

from typing import Any

NAME = "multi_head_attention"
"""Name of the implementation, for `attn_implementation` of transformers."""

DOMAIN = "com.microsoft"


def register() -> None:
    """Make the implementation known to transformers. Patches see all others."""
    import torch
    from transformers import AttentionInterface

    class MultiHeadAttention(torch.autograd.Function):
        """The operator; tensors are [pictures, patches, width], and a mask is int32 [pictures,
        patches] with 0 for padding."""

        @staticmethod
        def forward(
            ctx: Any, query: Any, key: Any, value: Any, heads: int, scale: float, *mask: Any
        ) -> Any:
            query, key, value = (
                part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value)
            )
            seen = mask[0][:, None, None].bool() if mask else None
            attended = torch.nn.functional.scaled_dot_product_attention(
                query, key, value, attn_mask=seen, scale=scale
            )
            return attended.transpose(1, 2).flatten(2)

        @staticmethod
        def symbolic(
            g: Any, query: Any, key: Any, value: Any, heads: int, scale: float, *mask: Any
        ) -> Any:
            inputs = [query, key, value]
            if mask:
                no_bias = g.op("prim::Constant")
                no_bias.setType(torch._C.OptionalType.ofTensor())
                inputs += [no_bias, *mask]
            name = f"{DOMAIN}::MultiHeadAttention"
            attended = g.op(name, *inputs, num_heads_i=heads, scale_f=scale)
            attended.setType(query.type())
            return attended

    operator: Any = MultiHeadAttention

    def attend(
        module: Any, query: Any, key: Any, value: Any, mask: Any, *, scaling: float, **_: Any
    ) -> tuple[Any, None]:
        heads = module.num_heads  # that of a traced tensor is not a plain number
        joined = (part.transpose(1, 2).flatten(2) for part in (query, key, value))
        masks = () if mask is None else (mask,)
        attended = operator.apply(*joined, heads, scaling, *masks)
        return attended.unflatten(-1, (heads, -1)), None

    AttentionInterface.register(NAME, attend)
