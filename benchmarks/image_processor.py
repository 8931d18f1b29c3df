"""Preparing pictures: 8-bit crops against the float path, side by side in one process and thread.

The float path twice: as the original code writes it (torchvision's operations spelled out), and trimmed, the best
plain form of it: one conversion to float, normalising in place. All give the same crops to the bit after normalising,
which is checked first. The 8-bit path leaves the whole view to the model; the trimmed path is also timed without.

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
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate

from phi3v.trainer.model import Phi3VImageProcessor
from phi3v.trainer.model.pixels import CLIP_MEAN, CLIP_STD, normalise

MEAN = torch.tensor(CLIP_MEAN).view(3, 1, 1)
STD = torch.tensor(CLIP_STD).view(3, 1, 1)
ROUNDS = 30


def fit(image: Image.Image, num_crops: int) -> Image.Image:
    """Return a picture resized to whole crops, white above and below."""
    turned = image.width < image.height
    image = image.transpose(Image.Transpose.TRANSPOSE) if turned else image
    ratio = image.width / image.height
    scale = 1
    while scale * np.ceil(scale / ratio) <= num_crops:
        scale += 1
    scale -= 1
    image = image.resize((336 * scale, int(336 * scale / ratio)), Image.Resampling.BILINEAR)
    missing = int(np.ceil(image.height / 336) * 336) - image.height
    image = ImageOps.expand(image, (0, missing // 2, 0, missing - missing // 2), fill=(255, 255, 255))
    return image.transpose(Image.Transpose.TRANSPOSE) if turned else image


def original(image: Image.Image, num_crops: int) -> Tensor:
    """Return (num_crops + 1, 3, 336, 336) float32, the whole view first, as the original code makes it."""
    pixels = torch.from_numpy(np.array(fit(image.convert("RGB"), num_crops))).permute(2, 0, 1).contiguous()
    pixels = pixels.float().div(255).clone().sub_(MEAN).div_(STD)
    whole = interpolate(pixels[None], size=(336, 336), mode="bicubic")
    rows, columns = pixels.shape[1] // 336, pixels.shape[2] // 336
    crops = pixels[None].reshape(1, 3, rows, 336, columns, 336).permute(0, 2, 4, 1, 3, 5).reshape(-1, 3, 336, 336)
    both = torch.cat([whole, crops.contiguous()])
    padded = torch.cat([both, torch.zeros(num_crops + 1 - len(both), 3, 336, 336)])
    return torch.stack([padded])[0]


def trimmed(image: Image.Image, num_crops: int, *, whole_view: bool = True) -> Tensor:
    """Return what `original` does; the first is zero without the whole view."""
    pixels = torch.from_numpy(np.array(fit(image, num_crops))).permute(2, 0, 1).contiguous().float()
    pixels.div_(255).sub_(MEAN).div_(STD)
    rows, columns = pixels.shape[1] // 336, pixels.shape[2] // 336
    out = torch.zeros(num_crops + 1, 3, 336, 336)
    grid = pixels.view(3, rows, 336, columns, 336).permute(1, 3, 0, 2, 4)
    out[1 : 1 + rows * columns].view(rows, columns, 3, 336, 336).copy_(grid)
    if whole_view:
        out[0] = interpolate(pixels[None], size=(336, 336), mode="bicubic")[0]
    return out


def seconds(work: Callable[[], Any]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(width: int, height: int, num_crops: int) -> dict[str, Any]:
    """Return the medians of the ratios, round by round, and what each path hands on."""
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, size=(height, width, 3), dtype=np.uint8))
    processor = Phi3VImageProcessor(num_crops=num_crops)
    ours, theirs = processor.preprocess(image)["pixel_values"], original(image, num_crops)
    assert torch.equal(normalise(ours), theirs[1 : 1 + len(ours)])
    assert torch.equal(trimmed(image, num_crops), theirs)
    paths: dict[str, Callable[[], Any]] = {
        "original": lambda: original(image, num_crops),
        "trimmed": lambda: trimmed(image, num_crops),
        "trimmed, no whole view": lambda: trimmed(image, num_crops, whole_view=False),
    }
    ratios: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(ROUNDS):
        own = min(seconds(lambda: processor.preprocess(image)) for _ in range(2))
        for name, path in paths.items():
            ratios[name].append(min(seconds(path) for _ in range(2)) / own)
    faster = {name: round(statistics.median(ratio), 2) for name, ratio in ratios.items()}
    fewer_bytes = round(theirs.nbytes / ours.nbytes, 2)
    return {"picture": f"{width}x{height} at {num_crops}", "faster_than": faster, "fewer_bytes": fewer_bytes}


def main() -> None:
    """Compare a page and a frame."""
    torch.set_num_threads(1)
    results = [compare(1700, 2200, 16), compare(320, 240, 4)]
    for result in results:
        speeds = ", ".join(f"{ratio} x ({name})" for name, ratio in result["faster_than"].items())
        print(f"{result['picture']}: as fast as the float path {speeds}; {result['fewer_bytes']} x fewer bytes")
    print(json.dumps({"image_processor": results}))


if __name__ == "__main__":
    main()
