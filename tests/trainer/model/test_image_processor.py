from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from phi3v.schema.tokens import crop_grid
from phi3v.trainer.model import Phi3VImageProcessor
from phi3v.trainer.model.pixels import CLIP_MEAN, CLIP_STD, normalise


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def plain(image: Image.Image, num_crops: int) -> NDArray[np.uint8]:
    """The original's resizing and padding, step by step on whole pictures: an array (height, width, 3)."""
    turned = image.width < image.height
    image = image.transpose(Image.Transpose.TRANSPOSE) if turned else image
    ratio = image.width / image.height
    scale = max(s for s in range(1, num_crops + 1) if s * np.ceil(s / ratio) <= num_crops)
    resized = image.resize((336 * scale, int(336 * scale / ratio)), Image.Resampling.BILINEAR)
    height = int(np.ceil(resized.height / 336) * 336)
    canvas = Image.new("RGB", (resized.width, height), (255, 255, 255))
    canvas.paste(resized, (0, int((height - resized.height) / 2)))
    return np.asarray(canvas.transpose(Image.Transpose.TRANSPOSE) if turned else canvas)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 16))
def test_crops_are_the_tiles_of_the_padded_picture(width: int, height: int, num_crops: int) -> None:
    image = noise(width, height)
    try:
        rows, columns = crop_grid(width, height, num_crops)
    except ValueError:
        return
    canvas = plain(image, num_crops)

    made = Phi3VImageProcessor(num_crops=num_crops).preprocess(image)

    assert made["image_sizes"].tolist() == [[canvas.shape[0], canvas.shape[1]]] == [[rows * 336, columns * 336]]
    assert made["crop_counts"].tolist() == [rows * columns]
    assert made["pixel_values"].dtype == torch.uint8
    for number, crop in enumerate(made["pixel_values"].numpy()):
        top, left = number // columns * 336, number % columns * 336
        assert np.array_equal(crop.transpose(1, 2, 0), canvas[top : top + 336, left : left + 336])


def test_images_lie_end_to_end() -> None:
    pictures = [noise(100, 100, 1), noise(300, 100, 2), noise(100, 300, 3)]
    processor = Phi3VImageProcessor(num_crops=4)

    together = processor.preprocess(pictures)

    alone = [processor.preprocess(picture) for picture in pictures]
    for name in ("pixel_values", "crop_counts", "image_sizes"):
        assert torch.equal(together[name], torch.cat([one[name] for one in alone]))


def test_the_original_layout_has_the_whole_view_first_and_zeros_at_the_end() -> None:
    pictures = [noise(100, 100, 1), noise(300, 100, 2)]
    processor = Phi3VImageProcessor(num_crops=5)

    made = processor.preprocess(pictures, layout="original")

    assert made["pixel_values"].shape == (2, 6, 3, 336, 336)
    crops = normalise(processor.preprocess(pictures[0])["pixel_values"])
    assert torch.equal(made["pixel_values"][0, 1:5], crops)
    assert not made["pixel_values"][0, 5:].any()
    assert made["pixel_values"][0, 0].mean().item() == pytest.approx(crops.mean().item(), abs=0.05)


def test_the_whole_view_of_one_crop_is_the_crop() -> None:
    made = Phi3VImageProcessor(num_crops=1).preprocess(noise(90, 50), layout="original")["pixel_values"]

    assert torch.equal(made[0, 0], made[0, 1])


def test_normalising_by_hand() -> None:
    crops = torch.arange(256, dtype=torch.uint8).repeat(3 * 336 * 336 // 256 + 1)[: 3 * 336 * 336].view(1, 3, 336, 336)

    made = normalise(crops)

    expected = (crops.double() / 255 - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)
    assert (made - expected).abs().max() < 1e-6


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_any_mode_becomes_rgb(mode: str) -> None:
    image = noise(40, 30).convert(mode)

    made = Phi3VImageProcessor().preprocess(image)

    assert torch.equal(made["pixel_values"], Phi3VImageProcessor().preprocess(image.convert("RGB"))["pixel_values"])


def test_num_crops_can_be_chosen_for_a_call() -> None:
    assert Phi3VImageProcessor(num_crops=16).preprocess(noise(40, 40), num_crops=1)["crop_counts"].tolist() == [1]


@pytest.mark.parametrize("size", [(5000, 1), (1, 5000)])
def test_a_shape_without_crops_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="too thin"):
        Phi3VImageProcessor().preprocess(noise(*size))


def test_only_torch_tensors() -> None:
    with pytest.raises(ValueError, match="'np'"):
        Phi3VImageProcessor().preprocess(noise(4, 4), return_tensors="np")


def test_it_saves_and_loads(tmp_path: Path) -> None:
    Phi3VImageProcessor(num_crops=7, auto_map={"AutoImageProcessor": "x.Y"}).save_pretrained(tmp_path)

    loaded = Phi3VImageProcessor.from_pretrained(tmp_path)

    assert loaded.num_crops == 7
    assert "auto_map" not in (tmp_path / "preprocessor_config.json").read_text()
