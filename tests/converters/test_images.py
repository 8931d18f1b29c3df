from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from phi3v.converters.base import SourceError
from phi3v.converters.images import MAX_PIXELS, Picture, read_picture, safe_name


def file_of(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def shown(picture: Picture) -> Image.Image:
    return Image.open(io.BytesIO(picture.data))


def gradient(mode: str = "RGB") -> Image.Image:
    rows, columns = np.mgrid[0:40, 0:60]
    pixels = np.stack([rows * 6, columns * 4, (rows + columns) * 2], axis=-1).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize(("form", "suffix"), [("JPEG", ".jpg"), ("PNG", ".png"), ("WEBP", ".webp")])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_sane_picture_goes_in_byte_for_byte(form: str, suffix: str, mode: str) -> None:
    if (form, mode) == ("WEBP", "L"):
        pytest.skip("WebP has no grey pictures")
    data = file_of(gradient(mode), form)

    assert read_picture(data) == Picture(data, suffix, None)


def test_the_content_tells_the_suffix_and_not_the_name(tmp_path: Path) -> None:
    """NLVR2's .png files hold JPEGs."""
    path = tmp_path / "a.png"
    path.write_bytes(file_of(gradient(), "JPEG"))

    assert read_picture(path).suffix == ".jpg"


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("form", ["JPEG", "WEBP", "PNG"])
def test_an_orientation_is_applied_once_and_stated(orientation: int, form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = gradient()
    backwards = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}  # what undoes each
    turned = ImageOps.exif_transpose(_with_orientation(upright, backwards[orientation]))
    data = file_of(turned, form, exif=exif, **({"lossless": True} if form == "WEBP" else {"quality": 95}))

    picture = read_picture(data)

    assert picture.note == f"turned upright (EXIF orientation {orientation})"
    assert shown(picture).getexif().get(0x0112, 1) == 1
    difference = np.abs(np.asarray(shown(picture).convert("RGB")).astype(int) - np.asarray(upright))
    assert difference.mean() < 3


def _with_orientation(image: Image.Image, orientation: int) -> Image.Image:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return Image.open(io.BytesIO(file_of(image, "PNG", exif=exif)))


@pytest.mark.parametrize(
    ("data", "note", "colour"),
    [
        (file_of(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), "CMYK made RGB", (255, 0, 0)),
        (file_of(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "PNG"), "transparent parts on white", (255, 255, 255)),
        (file_of(Image.new("RGBA", (8, 8), (255, 0, 0, 128)), "PNG"), "transparent parts on white", (255, 127, 127)),
        (file_of(Image.new("RGBA", (8, 8), (0, 0, 255, 255)), "WEBP", lossless=True), None, (0, 0, 255)),
        (file_of(Image.new("P", (8, 8), 0), "PNG"), "P made RGB", (0, 0, 0)),
        (file_of(Image.new("1", (8, 8), 1), "PNG"), "1 made RGB", (255, 255, 255)),
        (file_of(Image.new("LA", (8, 8), (7, 255)), "PNG"), "transparent parts on white", (7, 7, 7)),
        (file_of(Image.new("I;16", (8, 8), 257 * 100), "PNG"), "I;16 made RGB", (100, 100, 100)),
        (file_of(Image.new("I;16", (8, 8), 65535), "TIFF"), "was TIFF; I;16 made RGB", (255, 255, 255)),
        (file_of(Image.new("RGB", (8, 8), "red"), "BMP"), "was BMP", (255, 0, 0)),
    ],
)
def test_odd_pictures_become_right_rgb(data: bytes, note: str | None, colour: tuple[int, int, int]) -> None:
    picture = read_picture(data)

    assert picture.note == note
    found = shown(picture).convert("RGB")
    assert found.size == (8, 8)
    assert np.abs(np.asarray(found).astype(int) - colour).max() <= 2


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken_and_stated(form: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    options = {"lossless": True} if form == "WEBP" else {}
    data = file_of(frames[0], form, save_all=True, append_images=frames[1:], **options)

    picture = read_picture(data)

    assert "the first of 3 frames" in str(picture.note)
    assert shown(picture).convert("RGB").getpixel((4, 4)) == (255, 0, 0)
    assert not getattr(shown(picture), "is_animated", False)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_what_stands_behind_the_end_is_dropped_and_stated(form: str) -> None:
    data = file_of(gradient(), form)

    picture = read_picture(data + b"<?php evil ?>" * 10)

    assert picture.note == "bytes behind its end dropped"
    assert b"evil" not in picture.data


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_cut_picture_is_refused_wherever_it_is_cut(form: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = file_of(noise, form)
    assert read_picture(data)

    for cut in range(0, len(data) * 9 // 10, max(1, len(data) // 40)):
        with pytest.raises(SourceError) as caught:
            read_picture(data[:cut], where="a.x")
        assert caught.value.where == "a.x"
        assert caught.value.reason in {"no-image", "damaged-image"}


def png_header(width: int, height: int) -> bytes:
    """Return a PNG whose header announces a size, and whose pixels are missing."""
    content = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + content + struct.pack(">I", zlib.crc32(content))
    return b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 1000) + b"IDAT"


@pytest.mark.parametrize("size", [(9460, 9460), (65_000, 65_000), (2**31 - 1, 2**31 - 1)])
def test_nothing_decodes_before_its_header_passed_the_limit(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert size[0] * size[1] > MAX_PIXELS
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("decodes"))

    with pytest.raises(SourceError) as caught:
        read_picture(png_header(*size))

    assert caught.value.reason == "too-large"


def test_a_file_of_too_many_bytes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    with path.open("wb") as file:
        file.truncate(300_000_000)  # sparse
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("reads"))

    with pytest.raises(SourceError, match="300000000 bytes, more than"):
        read_picture(path)


def test_formats_that_start_programs_are_no_pictures() -> None:
    with pytest.raises(SourceError, match="no picture in one of the formats"):
        read_picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")


def test_a_picture_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file") as caught:
        read_picture(tmp_path / "a.png")

    assert (caught.value.reason, caught.value.where) == ("missing-image", tmp_path / "a.png")


EXPECTED_REFUSALS = {
    "bmp_b_badbitcount.bmp", "bmp_b_reallybig.bmp", "bmp_b_shortfile.bmp", "broken.png", "broken_data_stream.png",
    "damaged_jpeg_corrupt.jpg", "damaged_png_sigsegv.png", "decompression_bomb.gif", "decompression_bomb.ico",
    "empty.png", "half.jpg", "html_named.png", "libtiff_segfault.tif", "negative_size.ppm",
    "png_decompression_dos.png", "seek_too_large.tif", "skimage_multipage_rgb.tif", "truncated_image.png",
    "truncated_jpeg.jpg", "ultrahdr.jpg", "zero_width.gif",
}  # fmt: skip


@pytest.mark.parametrize("name", ["images", "malformed_images"])
def test_real_pictures_become_rgb_or_are_refused(shared: Path, name: str) -> None:
    refused = set()
    for path in sorted((shared / "realdata" / name).iterdir()):
        try:
            picture = read_picture(path)
        except SourceError:
            refused.add(path.name)
            continue
        image = shown(picture)
        image.load()
        assert image.mode in {"RGB", "L"}
        assert image.getexif().get(0x0112, 1) == 1
        if picture.note is None:
            assert picture.data == path.read_bytes()

    crashes = {entry for entry in refused if entry.startswith("crash-")}
    assert refused - crashes == (EXPECTED_REFUSALS if name == "malformed_images" else set())
    assert len(crashes) == (4 if name == "malformed_images" else 0)


def test_photos_taken_four_ways_look_alike(shared: Path) -> None:
    """The same scene with the orientations 1, 3, 6 and 8."""
    pictures = [
        np.asarray(shown(read_picture(path)).resize((90, 60))).astype(int)
        for path in sorted((shared / "realdata/images").glob("exif_Landscape_?.jpg"))
    ]

    assert len(pictures) == 4
    assert all(np.abs(picture - pictures[0]).mean() < 6 for picture in pictures)


# ------------------------------------------------------------------------------------------------------------- names


@given(st.text())
def test_a_safe_name_is_one_part_of_a_path(text: str) -> None:
    name = safe_name(text)

    assert name
    assert Path(name).name == name
    assert not name.startswith(".")
    assert len(name.encode()) <= 200
    assert not set(name) & set('/\\:*?"<>|\x00\n')


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("../../etc/passwd", "_.._etc_passwd"),
        ("a b", "a_b"),
        ("é.png", "é.png"),
        ("", "_"),
        ("...", "_"),
        ("a/b", "a_b"),
    ],
)
def test_names_by_hand(text: str, name: str) -> None:
    assert safe_name(text) == name


def test_naughty_strings_become_names_that_lead_nowhere(shared: Path, tmp_path: Path) -> None:
    import json

    texts = json.loads((shared / "realdata/text/blns.json").read_text())

    names = {safe_name(text) for text in texts}

    for name in names:
        (tmp_path / name).touch()
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_jpeg_of_a_frame_is_opencvs_and_of_pillows_quality(which_frame: Callable[[bytes], int]) -> None:
    from phi3v.converters.images import encode_jpeg

    frame = np.asarray(gradient())[..., ::-1]

    data = encode_jpeg(np.ascontiguousarray(frame))

    assert (
        shown(Picture(data, ".jpg", None)).quantization
        == shown(  # type: ignore[attr-defined]
            Picture(file_of(gradient(), "JPEG"), ".jpg", None)
        ).quantization
    )  # type: ignore[attr-defined]
    assert which_frame(encode_jpeg(np.full((24, 32, 3), 35, dtype=np.uint8))) == 3


def test_a_picture_that_cannot_be_read_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot read this picture") as caught:
        read_picture(tmp_path)

    assert caught.value.reason == "missing-image"
