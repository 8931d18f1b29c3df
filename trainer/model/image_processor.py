"""From pictures to 8-bit crops.

Source: Phi3VImageProcessor in processing_phi3_v.py of microsoft/Phi-3.5-vision-instruct.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from phi3v.schema.tokens import CROP, MAX_CROPS, crop_grid, image_tokens
from phi3v.trainer.model.pixels import CLIP_MEAN, CLIP_STD, normalise, whole_view

WHITE = 255
BILINEAR = Image.Resampling.BILINEAR
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # "I" is what Pillow makes of some 16-bit files


class Phi3VImageProcessor(BaseImageProcessor):
    """Cuts pictures into crops of 336 x 336 pixels.

    Args:
        num_crops: the most crops of an image, 1 to 16, the view of the whole image not counted.
        apply_exif_orientation: turn pictures upright as their EXIF data say; the original does not.
        image_mean, image_std, do_convert_rgb, num_img_tokens: as in the released files; the model relies on them.
    """

    model_input_names = ("pixel_values", "crop_counts", "image_sizes")

    def __init__(
        self,
        num_crops: int = 4,
        apply_exif_orientation: bool = False,  # noqa: FBT001, FBT002  # a field of the saved file, as the next
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        do_convert_rgb: bool = True,  # noqa: FBT001, FBT002
        num_img_tokens: int = 144,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("auto_map", None)  # else it would be saved, and ask to run remote code
        super().__init__(**kwargs)
        if not 1 <= num_crops <= MAX_CROPS:
            raise ValueError(f"num_crops is 1 to {MAX_CROPS}, not {num_crops}")
        if (tuple(image_mean), tuple(image_std)) != (CLIP_MEAN, CLIP_STD):
            raise ValueError("image_mean and image_std are CLIP's: the model takes them out by itself")
        self.num_crops = num_crops
        self.apply_exif_orientation = apply_exif_orientation
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
            ValueError: a picture without area, too thin for any crop, or of a mode that has no RGB.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors is 'pt', not {return_tensors!r}")
        if layout not in {"crops", "original"}:
            raise ValueError(f"layout is 'crops' or 'original', not {layout!r}")
        limit = self.num_crops if num_crops is None else num_crops
        pictures = [self.to_rgb(image) for image in ([images] if isinstance(images, Image.Image) else images)]
        if not pictures:
            raise ValueError("no picture to cut")
        grids = [crop_grid(*picture.size, limit) for picture in pictures]
        counts = [rows * columns for rows, columns in grids]
        crops = np.empty((sum(counts), 3, CROP, CROP), dtype=np.uint8)
        for picture, own, grid in zip(pictures, np.split(crops, np.cumsum(counts)[:-1]), grids, strict=True):
            cut(picture, own.reshape(*grid, 3, CROP, CROP))
        data = {
            "crop_counts": torch.tensor(counts),
            "image_sizes": torch.tensor(grids) * CROP,
        }
        pixels = torch.from_numpy(crops)
        if layout == "original":
            return BatchFeature({"pixel_values": _original(torch.split(pixels, counts), grids, limit), **data})
        return BatchFeature({"pixel_values": pixels, **data})

    def to_rgb(self, picture: Image.Image) -> Image.Image:
        """Return a picture in RGB, upright if so chosen: of an animation the frame it stands at, without transparency.

        Raises:
            ValueError: its mode has no RGB.
        """
        return to_rgb(ImageOps.exif_transpose(picture) if self.apply_exif_orientation else picture)

    def token_count(self, width: int, height: int, *, num_crops: int | None = None) -> int:
        """Return how many tokens an image of `width` x `height` pixels takes."""
        return image_tokens(width, height, self.num_crops if num_crops is None else num_crops)


def to_rgb(picture: Image.Image) -> Image.Image:
    """Return a picture in RGB, as `convert("RGB")` does but for 16-bit grey.

    Pillow clips that at 255, so that nearly all of it turns white; here it keeps its upper eight bits.

    Raises:
        ValueError: a mode that has no RGB, as floating point.
    """
    if picture.mode in SIXTEEN_BITS:
        values = np.asarray(picture).astype(np.int64)
        return Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise ValueError("a picture of floating point numbers has no defined white: save it with 8 or 16 bits")
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")  # the same colours; without it Pillow warns
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def cut(image: Image.Image, crops: NDArray[np.uint8]) -> None:
    """Resize a picture in RGB to whole crops, white around it, and write them into `crops`.

    Args:
        image: the picture.
        crops: (rows, columns, 3, 336, 336), of the picture's crop grid.
    """
    rows, columns = crops.shape[:2]
    resized = _resize(image, CROP * max(rows, columns))
    left, above = (columns * CROP - resized.width) // 2, (rows * CROP - resized.height) // 2
    padded = np.full((rows * CROP, columns * CROP), WHITE, dtype=np.uint8)
    # Channel by channel: a strided copy of whole rows is three times as fast as one that takes every third byte.
    for channel, band in enumerate(resized.split()):
        padded[above : above + resized.height, left : left + resized.width] = np.asarray(band)
        crops[:, :, channel] = padded.reshape(rows, CROP, columns, CROP).swapaxes(1, 2)


def _resize(image: Image.Image, long_side: int) -> Image.Image:
    """Return a picture with its long side as given, bit-equal to the original's."""
    short_side = int(long_side / (max(image.size) / min(image.size)))  # a float, as in the original
    if image.width >= image.height:
        return image.resize((long_side, short_side), BILINEAR)
    # The original turns the picture on its side, and Pillow rounds to 8 bits between its two passes. One pass at
    # a time, the long side first, gives the same bits without turning millions of pixels twice.
    return image.resize((image.width, long_side), BILINEAR).resize((short_side, long_side), BILINEAR)


def _original(crops: Sequence[Tensor], grids: Sequence[tuple[int, int]], num_crops: int) -> Tensor:
    pixels = torch.zeros(len(crops), num_crops + 1, 3, CROP, CROP)
    for own, (rows, columns), out in zip(crops, grids, pixels, strict=True):
        floats = normalise(own)
        out[0] = whole_view(floats, rows, columns)
        out[1 : 1 + len(own)] = floats
    return pixels
