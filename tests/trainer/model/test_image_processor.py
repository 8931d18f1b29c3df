from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from phi3v.schema.tokens import crop_grid, image_tokens
from phi3v.trainer.model import Phi3VImageProcessor
from phi3v.trainer.model.image_processor import to_rgb
from phi3v.trainer.model.pixels import CLIP_MEAN, CLIP_STD, normalise
from phi3v.trainer.model.tiny import tiny_processor


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


@pytest.mark.slow
def test_the_processor_writes_as_many_tokens_as_width_and_height_say_for_10_000_sizes() -> None:
    sides = np.random.default_rng(0)
    processor = tiny_processor()
    refused = 0
    for number in range(10_000):
        width, height = (int(side) for side in np.exp(sides.uniform(0, np.log(700), 2)))
        num_crops = 1 + number % 16 if number % 10 == 0 else 1 + number % 4
        image = Image.new("RGB", (width, height))
        try:
            ids = processor("<|image_1|>", [image], num_crops=num_crops)["input_ids"]
        except ValueError:
            with pytest.raises(ValueError, match=f"{width} x {height} pixels"):
                image_tokens(width, height, num_crops)
            refused += 1
            continue

        assert int((ids < 0).sum()) == image_tokens(width, height, num_crops), (width, height, num_crops)

    assert refused < 500


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


@pytest.mark.parametrize("dtype", ["uint16", ">u2", "int32"])
def test_16_bit_grey_keeps_its_upper_bits(dtype: str) -> None:
    """Pillow alone would make all of it but the darkest 256 levels white."""
    values = np.arange(65536, dtype=dtype).reshape(256, 256)

    rgb = np.asarray(to_rgb(Image.fromarray(values)))

    assert np.array_equal(rgb, np.repeat((np.arange(65536).reshape(256, 256, 1) // 256), 3, axis=2))


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_a_palette_with_transparency_keeps_its_colours() -> None:
    image = noise(40, 30).quantize(64)
    image.info["transparency"] = bytes(range(64))

    assert np.array_equal(np.asarray(to_rgb(image)), np.asarray(image.convert("RGB")))


def test_floating_point_is_refused() -> None:
    with pytest.raises(ValueError, match="save it with 8 or 16 bits"):
        Phi3VImageProcessor().preprocess(Image.new("F", (10, 10)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_as_the_user_chooses(orientation: int, tmp_path: Path) -> None:
    upright = noise(64, 32)
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright.save(tmp_path / "a.png", exif=exif)

    with Image.open(tmp_path / "a.png") as stored:
        plain = Phi3VImageProcessor().preprocess(stored)
        turned = Phi3VImageProcessor(apply_exif_orientation=True).preprocess(stored)

    assert torch.equal(plain["pixel_values"], Phi3VImageProcessor().preprocess(upright)["pixel_values"])
    # Pillow's own table of what each orientation needs, by hand.
    steps = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
    expected = upright.transpose(Image.Transpose(steps[orientation])) if orientation > 1 else upright
    assert torch.equal(turned["pixel_values"], Phi3VImageProcessor().preprocess(expected)["pixel_values"])


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [noise(40, 40, seed) for seed in range(3)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)

    with Image.open(tmp_path / "a.webp") as animation:
        made = Phi3VImageProcessor().preprocess(animation)

    assert torch.equal(made["pixel_values"], Phi3VImageProcessor().preprocess(frames[0])["pixel_values"])


def test_token_counts_of_ten_thousand_sizes_are_the_processors() -> None:
    """Counted from the grid of the crops that were really cut; a grey line is resized fast."""
    generator = np.random.default_rng(0)
    checked = 0
    while checked < 10_000:
        width, height = (int(side) for side in np.exp(generator.uniform(0, np.log(3000), size=2)).astype(int))
        num_crops = int(generator.integers(1, 17))
        try:
            rows, columns = crop_grid(width, height, num_crops)
        except ValueError:
            continue
        long, short = max(width, height), min(width, height)
        scale = max(s for s in range(1, num_crops + 1) if s * np.ceil(s / (long / short)) <= num_crops)
        across = int(np.ceil(int(336 * scale / (long / short)) / 336))
        grid = (scale, across) if width < height else (across, scale)
        assert (rows, columns) == grid
        assert (
            image_tokens(width, height, num_crops)
            == sum(1 for _ in range(grid[0] * 12) for _ in range(grid[1] * 12 + 1)) + 1 + 12 * 13
        )
        checked += 1


@pytest.mark.slow
def test_every_real_picture_is_cut_as_its_header_foretells(shared: Path) -> None:
    processor = Phi3VImageProcessor(num_crops=16)
    refused = {}
    for path in sorted((shared / "realdata" / "images").iterdir()):
        with Image.open(path) as picture:
            try:
                made = processor.preprocess(picture)
            except ValueError as error:
                refused[path.name] = str(error)
                continue
            rows, columns = crop_grid(*picture.size, 16)
        assert made["crop_counts"].tolist() == [rows * columns], path.name

    assert refused == {}


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
