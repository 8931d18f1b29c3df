"""From 8-bit crops to what the vision tower takes: normalised crops, and the view of the whole image.

Crops travel as uint8 and become floats only here, in the model: a quarter of the bytes through workers and to
the GPU. The view of the whole image is computed from them, since as uint8 it would be rounded.

Source: Phi3VImageProcessor in processing_phi3_v.py of microsoft/Phi-3.5-vision-instruct.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from phi3v.schema.tokens import CROP

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def normalise(crops: Tensor) -> Tensor:
    """Return crops (N, 3, 336, 336) uint8, 0 to 255, as float32 with CLIP's mean and standard deviation taken out."""
    mean = torch.tensor(CLIP_MEAN, device=crops.device).view(3, 1, 1)
    std = torch.tensor(CLIP_STD, device=crops.device).view(3, 1, 1)
    return crops.float().div_(255).sub_(mean).div_(std)  # in place: each copy would be as large as all crops


def whole_view(crops: Tensor, rows: int, columns: int) -> Tensor:
    """Return the view of a whole image, (3, 336, 336), from its normalised crops (rows * columns, 3, 336, 336).

    The crops come row by row. Bicubic, not antialiased: what the released weights were trained with.
    """
    grid = crops.view(rows, columns, 3, CROP, CROP).permute(2, 0, 3, 1, 4)
    image = grid.reshape(1, 3, rows * CROP, columns * CROP)
    return interpolate(image, size=(CROP, CROP), mode="bicubic")[0]
