"""Examples to a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from phi3v.trainer.encode import Example
from phi3v.trainer.model.modeling import IGNORED


def collate(examples: Sequence[Example], *, pad_id: int, side: Literal["left", "right"] = "right") -> dict[str, Tensor]:
    """Pad B examples and lay their images end to end.

    Images are not padded to a (B, K) grid: the model fills the placeholders of `input_ids` in row order, so only
    the images' order matters.

    Args:
        examples: at least one.
        pad_id: any id; what is padded is masked, not recognised by its id, since pad and end of text are one.
        side: `right` for training, `left` for generation.

    Returns:
        input_ids, labels: (B, T) int64, T the longest example.
        attention_mask: (B, T) int64, 1 on tokens, 0 on padding.
        pixel_values: (sum of crops, 3, 336, 336) uint8, crops row by row, images end to end.
        crop_counts: (sum K,) int64, crops of each image.
        image_sizes: (sum K, 2) int64, height and width in pixels after resizing, multiples of 336.
        The last three are left out if no example has an image.

    Source: Phi3ImageEmbedding.forward (order: torch.nonzero over (B, T)) in modeling_phi3_v.py of
    microsoft/Phi-3.5-vision-instruct.
    """
    longest = max(len(example.input_ids) for example in examples)

    def padded(rows: Sequence[list[int]], value: int) -> Tensor:
        fill = [[value] * (longest - len(row)) for row in rows]
        pairs = zip(rows, fill, strict=True)
        return torch.tensor([more + row if side == "left" else row + more for row, more in pairs])

    batch = {
        "input_ids": padded([example.input_ids for example in examples], pad_id),
        "attention_mask": padded([[1] * len(example.input_ids) for example in examples], 0),
        "labels": padded([example.labels for example in examples], IGNORED),
    }
    return batch | _images(examples)


def pack(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Lay examples end to end in one row, without padding; the model lets none attend to another.

    Args:
        examples: at least one; the first label of each is `IGNORED`.

    Returns:
        input_ids, labels: (1, sum T) int64.
        position_ids: (1, sum T) int64, starting anew with each example.
        The images as `collate` has them.
    """
    return {
        "input_ids": torch.tensor([[token for example in examples for token in example.input_ids]]),
        "labels": torch.tensor([[label for example in examples for label in example.labels]]),
        "position_ids": torch.cat([torch.arange(len(example.input_ids)) for example in examples])[None],
    } | _images(examples)


def _images(examples: Sequence[Example]) -> dict[str, Tensor]:
    images = [example.images for example in examples if example.images]
    return {name: torch.cat([own[name] for own in images]) for name in images[0]} if images else {}
