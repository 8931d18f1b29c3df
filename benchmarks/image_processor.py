"""Preparing pictures: 8-bit crops against the plain float path, side by side in one process and thread.

The plain path is the original's, in torch, at its best: Pillow's resize, one conversion to float, normalising in
place, the whole view, a grid of crops. Both give the same crops to the bit after normalising, which is checked first.
It is timed with and without the whole view, which the 8-bit path leaves to the model.

Run: .venv/bin/python benchmarks/image_processor.py     (the last line is JSON)
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

from phi3v.trainer.model import Phi3VImageProcessor
from phi3v.trainer.model.pixels import CLIP_MEAN, CLIP_STD, normalise

MEAN = torch.tensor(CLIP_MEAN).view(3, 1, 1)
STD = torch.tensor(CLIP_STD).view(3, 1, 1)
ROUNDS = 15


def plain(image: Image.Image, num_crops: int, *, whole_view: bool) -> Tensor:
    """Return (num_crops + 1, 3, 336, 336) float32; the first is zero without the whole view."""
    turned = image.width < image.height
    image = image.transpose(Image.Transpose.TRANSPOSE) if turned else image
    ratio = image.width / image.height
    scale = 1
    while scale * np.ceil(scale / ratio) <= num_crops:
        scale += 1
    scale -= 1
    image = image.resize((336 * scale, int(336 * scale / ratio)), Image.Resampling.BILINEAR)
    height = int(np.ceil(image.height / 336) * 336)
    above = (height - image.height) // 2
    canvas = Image.new("RGB", (image.width, height), (255, 255, 255))
    canvas.paste(image, (0, above))
    canvas = canvas.transpose(Image.Transpose.TRANSPOSE) if turned else canvas
    pixels = torch.from_numpy(np.array(canvas)).permute(2, 0, 1).contiguous().float().div_(255).sub_(MEAN).div_(STD)
    rows, columns = pixels.shape[1] // 336, pixels.shape[2] // 336
    crops = pixels.view(3, rows, 336, columns, 336).permute(1, 3, 0, 2, 4).reshape(-1, 3, 336, 336)
    whole = interpolate(pixels[None], size=(336, 336), mode="bicubic") if whole_view else torch.zeros(1, 3, 336, 336)
    return pad(torch.cat([whole, crops]), (0, 0, 0, 0, 0, 0, 0, num_crops - len(crops)))


def seconds(work: Callable[[], Any]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(width: int, height: int, num_crops: int) -> dict[str, Any]:
    """Return the medians of the ratios, pair by pair, and what each path hands on."""
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, size=(height, width, 3), dtype=np.uint8))
    processor = Phi3VImageProcessor(num_crops=num_crops)
    ours = processor.preprocess(image)["pixel_values"]
    theirs = plain(image, num_crops, whole_view=True)
    assert torch.equal(normalise(ours), theirs[1 : 1 + len(ours)])
    with_view, without = [], []
    for _ in range(ROUNDS):
        own = seconds(lambda: processor.preprocess(image))
        with_view.append(seconds(lambda: plain(image, num_crops, whole_view=True)) / own)
        without.append(seconds(lambda: plain(image, num_crops, whole_view=False)) / own)
    return {
        "picture": f"{width}x{height} at {num_crops}",
        "faster": round(statistics.median(with_view), 2),
        "faster_without_whole_view": round(statistics.median(without), 2),
        "fewer_bytes": round(theirs.nbytes / ours.nbytes, 2),
    }


def main() -> None:
    """Compare a page and a frame."""
    torch.set_num_threads(1)
    results = [compare(1700, 2200, 16), compare(320, 240, 4)]
    for result in results:
        print(
            "{picture}: {faster} x as fast ({faster_without_whole_view} x), {fewer_bytes} x fewer bytes".format(
                **result
            )
        )
    print(json.dumps({"image_processor": results}))


if __name__ == "__main__":
    main()
