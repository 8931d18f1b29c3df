"""What the model's tokenizer and image processor do, as far as data checks must know it: no torch here.

Source: the tokenizer and processing_phi3_v.py of microsoft/Phi-3.5-vision-instruct.
"""

from __future__ import annotations

import re
from functools import lru_cache
from math import ceil
from typing import NamedTuple

CROP = 336  # pixels a side; each crop is one picture to the vision tower
MAX_CROPS = 16

# Every added token of the released tokenizers. In a text they would become that token's id: a turn that ends
# early, or one that the user never wrote.
CONTROL_TOKENS = (
    "<unk>",
    "<s>",
    "</s>",
    "<|endoftext|>",
    "<|assistant|>",
    *(f"<|placeholder{number}|>" for number in range(1, 5)),
    "<|system|>",
    "<|end|>",
    *(f"<|placeholder{number}|>" for number in (5, 6)),
    "<|user|>",
    *(f"<|placeholder{number}|>" for number in range(7, 40)),
    "<|image|>",
)

CONTROL_TOKEN_PATTERN = "|".join(token.replace("|", r"\|") for token in CONTROL_TOKENS)
CONTROL_TOKEN = re.compile(CONTROL_TOKEN_PATTERN)
IMAGE_TAG = re.compile(r"<\|image_(\d+)\|>")
_MOST_DIGITS = 9  # of an image's number; Python refuses to read thousands


def tag_number(digits: str) -> int:
    """Return an image tag's number; of one with too many digits a number that no record has so many images for."""
    return int(digits) if len(digits) <= _MOST_DIGITS else 10**_MOST_DIGITS


class Grid(NamedTuple):
    """How many crops of 336 x 336 pixels an image is cut into: `rows` x `columns`."""

    rows: int
    columns: int


@lru_cache(maxsize=4096)  # asked several times for each image, and images of one source are of few sizes
def crop_grid(width: int, height: int, num_crops: int) -> Grid:
    """Return the crops of an image of `width` x `height` pixels, the view of the whole image not counted.

    Raises:
        ValueError: no side, or so long and thin that no row of pixels is left after resizing.
    """
    if width < 1 or height < 1:
        raise ValueError(f"an image of {width} x {height} pixels has no area")
    long, short = max(width, height), min(width, height)
    scale = crop_columns(long, short, num_crops)
    # Floats as in the original: int(336 s / ratio) differs from integer division for some sizes.
    resized_short = int(CROP * scale / (long / short))
    if resized_short < 1:
        raise ValueError(
            f"an image of {width} x {height} pixels is too thin: nothing is left of it at {num_crops} crops"
        )
    across = ceil(resized_short / CROP)
    return Grid(scale, across) if width < height else Grid(across, scale)


def crop_columns(long: int, short: int, num_crops: int) -> int:
    """Return the largest s with s * ceil(s / (long / short)) <= num_crops: crops along the longer side."""
    if not 1 <= num_crops <= MAX_CROPS:
        raise ValueError(f"num_crops is 1 to {MAX_CROPS}, not {num_crops}")
    ratio = long / short
    scale = 1
    while (scale + 1) * ceil((scale + 1) / ratio) <= num_crops:
        scale += 1
    return scale


def image_tokens(width: int, height: int, num_crops: int) -> int:
    """Return how many positions of the model's input an image of `width` x `height` pixels takes."""
    rows, columns = crop_grid(width, height, num_crops)
    return crop_tokens(rows * CROP, columns * CROP)


def image_pictures(width: int, height: int, num_crops: int) -> int:
    """Return how many pictures of 336 x 336 the vision tower sees of an image: its crops, and the whole of several."""
    rows, columns = crop_grid(width, height, num_crops)
    return rows * columns + (rows * columns > 1)


def crop_tokens(height: int, width: int) -> int:
    """Return the tokens of an image resized to whole crops, `height` x `width` pixels.

    12 x 12 a crop and for the whole image, one row end for each of their rows, one separator between the two.
    """
    rows, columns = height // CROP, width // CROP
    return (rows * columns + 1) * 144 + 1 + (rows + 1) * 12
