"""From pictures to 8-bit crops.

Source: Phi3VImageProcessor in processing_phi3_v.py of microsoft/Phi-3.5-vision-instruct.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from phi3v.schema.tokens import CROP, crop_columns, image_tokens
from phi3v.trainer.model.pixels import CLIP_MEAN, CLIP_STD, normalise, whole_view

WHITE = 255


class Phi3VImageProcessor(BaseImageProcessor):
    """Cuts pictures into crops of 336 x 336 pixels.

    Args:
        num_crops: the most crops of an image, 1 to 16, the view of the whole image not counted.
        image_mean, image_std, do_convert_rgb, num_img_tokens: as in the released files; the model relies on them.
    """

    model_input_names = ("pixel_values", "crop_counts", "image_sizes")

    def __init__(
        self,
        num_crops: int = 4,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        do_convert_rgb: bool = True,  # noqa: FBT001, FBT002  # a field of the released preprocessor_config.json
        num_img_tokens: int = 144,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("auto_map", None)  # else it would be saved, and ask to run remote code
        super().__init__(**kwargs)
        self.num_crops = num_crops
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.do_convert_rgb = do_convert_rgb
        self.num_img_tokens = num_img_tokens

    def preprocess(
        self,
        images: Image.Image | Sequence[Image.Image],
        *,
        num_crops: int | None = None,
        layout: Literal["crops", "original"] = "crops",
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Cut K pictures into crops.

        Args:
            images: pictures of any mode that Pillow opens.
            num_crops: instead of the processor's own.
            layout: `crops`, or `original` for the original code's float tensor.
            return_tensors: `pt` only.

        Returns:
            pixel_values: (sum of crops, 3, 336, 336) uint8, each image's crops row by row, images end to end; with
                `original` (K, num_crops + 1, 3, 336, 336) float32, the whole view first, zeros at the end.
            crop_counts: (K,) int64, crops of each image, the whole view not counted.
            image_sizes: (K, 2) int64, height and width in pixels after resizing, multiples of 336.

        Raises:
            ValueError: a picture without area, or too thin for any crop.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors is 'pt', not {return_tensors!r}")
        limit = num_crops or self.num_crops
        pictures = [images] if isinstance(images, Image.Image) else list(images)
        crops = [cut(picture, limit) for picture in pictures]
        pixels = [torch.from_numpy(own.reshape(-1, 3, CROP, CROP)) for own in crops]
        data = {
            "crop_counts": torch.tensor([len(own) for own in pixels]),
            "image_sizes": torch.tensor([[own.shape[0] * CROP, own.shape[1] * CROP] for own in crops]),
        }
        if layout == "original":
            grids = [own.shape[:2] for own in crops]
            return BatchFeature({"pixel_values": _original(pixels, grids, limit), **data})
        return BatchFeature({"pixel_values": torch.cat(pixels), **data})

    def token_count(self, width: int, height: int, *, num_crops: int | None = None) -> int:
        """Return how many tokens an image of `width` x `height` pixels takes."""
        return image_tokens(width, height, num_crops or self.num_crops)


def cut(picture: Image.Image, num_crops: int) -> NDArray[np.uint8]:
    """Resize a picture to whole crops, white above and below, and cut it.

    Returns:
        (rows, columns, 3, 336, 336) uint8.
    """
    image = picture.convert("RGB")
    width, height = image.size
    image_tokens(width, height, num_crops)  # raises for shapes that have no crops
    # Upright pictures are transposed, not resized as they are: Pillow rounds between its two passes, so the
    # result would differ in the last bit from the original's.
    upright = width < height
    if upright:
        image = image.transpose(Image.Transpose.TRANSPOSE)
        width, height = height, width
    columns = crop_columns(width, height, num_crops)
    size = (CROP * columns, int(CROP * columns / (width / height)))
    pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
    rows = -(-size[1] // CROP)
    above = (rows * CROP - size[1]) // 2
    padded = np.full((rows * CROP, columns * CROP, 3), WHITE, dtype=np.uint8)
    padded[above : above + size[1]] = pixels
    grid = padded.reshape(rows, CROP, columns, CROP, 3)  # row, y, column, x, channel
    return np.ascontiguousarray(grid.transpose((2, 0, 4, 3, 1) if upright else (0, 2, 4, 1, 3)))


def _original(crops: list[Tensor], grids: list[tuple[int, ...]], num_crops: int) -> Tensor:
    pixels = torch.zeros(len(crops), num_crops + 1, 3, CROP, CROP)
    for own, (rows, columns), out in zip(crops, grids, pixels, strict=True):
        floats = normalise(own)
        out[0] = whole_view(floats, rows, columns)
        out[1 : 1 + len(own)] = floats
    return pixels
