"""Attention within the samples of a packed row: `attn_implementation="packed_sdpa"`.

A packed row holds several samples end to end; `position_ids` start anew with each. A dense mask for it costs the
square of the whole row; here each sample is a causal attention of its own. Rows without packing go to PyTorch's
attention as with `sdpa`. FlashAttention does the same by its own kernel, from the same `position_ids`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED_SDPA = "packed_sdpa"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    segment_lengths: list[int] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return the attention output (B, T, heads, width) of queries, keys and values (B, heads, T, width).

    Args:
        module: the attention layer.
        query, key, value: what attends, and to what.
        attention_mask: for rows that are not packed.
        dropout: on the attention weights.
        scaling: of the scores.
        segment_lengths: of the samples in a packed row, B = 1; None where rows are not packed.
        kwargs: for PyTorch's attention.
    """
    if segment_lengths is None:
        plain: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return plain
    samples = zip(*(torch.split(each, segment_lengths, dim=2) for each in (query, key, value)), strict=True)
    parts = [
        scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling) for q, k, v in samples
    ]
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def packed_mask(*, attention_mask: Tensor | None = None, allow_is_causal_skip: bool = True, **kwargs: Any) -> Any:
    """Return no mask for a packed row, else the one of `sdpa`."""
    # transformers forbids the skip, and passes no padding mask, exactly where it has found a packed row.
    if attention_mask is None and not allow_is_causal_skip:
        return None
    return sdpa_mask(attention_mask=attention_mask, allow_is_causal_skip=allow_is_causal_skip, **kwargs)


def packed_lengths(position_ids: Tensor | None, attention_mask: Tensor | None) -> list[int] | None:
    """Return the lengths of the samples in a packed row, or None if the input is not one."""
    if position_ids is None or attention_mask is not None or position_ids.shape[0] != 1 or position_ids.shape[1] == 1:
        return None
    starts = (position_ids[0] == 0).nonzero().flatten().tolist()
    if len(starts) < 2 or starts[0] != 0:  # noqa: PLR2004  # two samples make a pack
        return None
    ends = [*starts[1:], position_ids.shape[1]]
    return [end - start for start, end in zip(starts, ends, strict=True)]


AttentionInterface.register(PACKED_SDPA, packed_attention)
AttentionMaskInterface.register(PACKED_SDPA, packed_mask)
