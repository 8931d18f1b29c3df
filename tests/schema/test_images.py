"""Image files, hostile ones included; where the real corpora lie beside the checkout, they are the judges."""

from __future__ import annotations

import os
import stat
import sys
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image

from phi3v.schema import Checker, check
from phi3v.schema.decoder import Decoders
from phi3v.schema.ends import picture_end
from phi3v.schema.images import FORMATS, Folder, decode

SUFFIXES = {"BMP": ".bmp", "GIF": ".gif", "JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}


def picture(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 60).convert("RGB").save(path)
    return path


def codes(folder: Path, name: str) -> list[str]:
    return [flaw.code for flaw in Folder(folder).look(name).flaws]


@pytest.mark.parametrize("form", FORMATS)
def test_a_good_picture_of_each_format(tmp_path: Path, form: str) -> None:
    path = picture(tmp_path / f"a{SUFFIXES[form]}")

    look = Folder(tmp_path).look(path.name)

    assert (look.flaws, look.width, look.height, look.size) == ((), 40, 30, path.stat().st_size)
    assert look.doubtful is (form == "BMP")  # a BMP's end tells nothing
    assert decode(str(path)) == []


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9, 0.999])
def test_a_picture_that_is_cut_off_is_doubted_by_its_header_and_refused_by_decoding(
    tmp_path: Path, form: str, part: float
) -> None:
    path = picture(tmp_path / f"a{SUFFIXES[form]}")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])

    look = Folder(tmp_path).look(path.name)

    assert look.doubtful or look.flaws
    assert [flaw.code for flaw in decode(str(path))] == ["image-broken"]


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "BMP"])
def test_what_follows_a_picture_is_counted(tmp_path: Path, form: str) -> None:
    path = picture(tmp_path / f"a{SUFFIXES[form]}")
    end = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"<html>not found</html>")

    assert Folder(tmp_path).look(path.name).doubtful
    assert picture_end(path.read_bytes(), form) == end
    (flaw,) = decode(str(path))
    assert (flaw.code, "by 22 bytes" in flaw.what) == ("image-trailing", True)


def test_a_gif_of_several_frames_and_a_jpeg_with_a_thumbnail_end_where_they_end(tmp_path: Path) -> None:
    frames = [Image.new("P", (9, 9), number) for number in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], comment=b"c" * 300)
    exif = Image.Exif()
    exif[0x9286] = picture(tmp_path / "small.jpg").read_bytes()  # a whole JPEG, its end mark included, inside
    Image.new("RGB", (9, 9)).save(tmp_path / "a.jpg", exif=exif)

    for name in ("a.gif", "a.jpg"):
        data = (tmp_path / name).read_bytes()
        assert picture_end(data, SUFFIXES_TO_FORMS[Path(name).suffix]) == len(data)
        assert decode(str(tmp_path / name)) == []


SUFFIXES_TO_FORMS = {suffix: form for form, suffix in SUFFIXES.items()}


def test_names_that_lie(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(tmp_path / "b.jpg").read_bytes())

    (flaw,) = Folder(tmp_path).look("a.png").flaws

    assert flaw == ("image-extension", "is a JPEG, not a PNG")
    assert codes(tmp_path, "b.jpg") == []
    (tmp_path / "b.JPEG").write_bytes((tmp_path / "b.jpg").read_bytes())
    (tmp_path / "noname").write_bytes((tmp_path / "b.jpg").read_bytes())
    assert codes(tmp_path, "b.JPEG") == codes(tmp_path, "noname") == []


def test_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "page.png").write_text("<!DOCTYPE html>")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 40)
    Image.new("RGB", (9, 9)).save(tmp_path / "a.tif")

    found = {name: codes(tmp_path, name) for name in sorted(path.name for path in tmp_path.iterdir())}

    assert found == {
        "a.tif": ["image-format"],
        "broken.png": ["image-broken"],
        "empty.jpg": ["image-broken"],
        "folder.jpg": ["image-missing"],
        "page.png": ["image-format"],
        "pipe.jpg": ["image-missing"],
    }
    assert codes(tmp_path, "nowhere.jpg") == codes(tmp_path, "x" * 300) == ["image-missing"]


@pytest.mark.parametrize("size", [(30_000, 30_000), (9_000, 10_000)])
def test_a_bomb_is_told_by_its_header(tmp_path: Path, size: tuple[int, int]) -> None:
    picture(tmp_path / "a.png", (1, 1))
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = b"".join(side.to_bytes(4, "big") for side in size)
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(data)

    assert codes(tmp_path, "a.png") == ["image-size"]
    assert [flaw.code for look in Folder(tmp_path).look_all(["a.png"]) for flaw in look.flaws] == ["image-size"]


def test_a_picture_too_thin_for_the_model(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (20_000, 2))

    (flaw,) = Folder(tmp_path).look("a.png").flaws

    assert (flaw.code, "too thin" in flaw.what) == ("image-size", True)


def test_links_may_not_lead_out(tmp_path: Path) -> None:
    outside = picture(tmp_path / "outside" / "a.png")
    root = tmp_path / "root"
    picture(root / "in" / "a.png")
    (root / "link.png").symlink_to(outside)
    (root / "folder").symlink_to(outside.parent)
    (root / "inner.png").symlink_to("in/a.png")
    (root / "gone.png").symlink_to("nowhere")

    assert codes(root, "link.png") == codes(root, "folder/a.png") == ["image-outside"]
    assert codes(root, "inner.png") == codes(root, "in/a.png") == []
    assert codes(root, "gone.png") == ["image-missing"]
    (tmp_path / "root2").symlink_to(root)
    assert codes(tmp_path / "root2", "in/a.png") == []


@pytest.fixture
def decoders() -> Decoders:
    return Decoders(2, seconds=20)


def test_answers_come_in_order_whatever_the_number_of_processes(tmp_path: Path, decoders: Decoders) -> None:
    paths = [picture(tmp_path / f"{number}.png") for number in range(9)]
    for path in paths[::3]:
        path.write_bytes(path.read_bytes()[:200])

    flaws = decoders.run([str(path) for path in paths])
    decoders.close()

    assert [bool(found) for found in flaws] == [True, False, False] * 3


def test_a_decoder_that_dies_hangs_or_wants_too_much_is_replaced(tmp_path: Path) -> None:
    """With a decoder that does so on command: no file is known that still makes Pillow's."""
    good = str(picture(tmp_path / "good.png"))
    script = tmp_path / "decoder.py"
    script.write_text(
        "import json, os, signal, sys, time\n"
        "from phi3v.schema.images import decode\n"
        "for line in sys.stdin.buffer:\n"
        "    path = json.loads(line)[1]\n"
        "    if path == 'crash': os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    if path == 'hang': time.sleep(600)\n"
        "    print(json.dumps(decode(path)), flush=True)\n"
    )
    decoders = Decoders(2, seconds=3, command=[sys.executable, str(script)])
    started = time.monotonic()

    flaws = decoders.run(["crash", good, "hang", good, "crash", good])
    decoders.close()

    assert [found[0].what if found else "" for found in flaws] == [
        "crashes its decoder (exit code -11)", "", "takes over 3 s to decode", "",
        "crashes its decoder (exit code -11)", "",
    ]  # fmt: skip
    assert time.monotonic() - started < 30


def test_decoding_imports_nothing_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(tmp_path / "a.png")
    (tmp_path / "json.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    decoders = Decoders()

    flaws = decoders.run([str(path)])
    decoders.close()

    assert flaws == [[]]


def test_memory_is_capped(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (9_000, 9_000)).save(path, compress_level=1)
    decoders = Decoders(1, memory=300 << 20)

    ((flaw,),) = decoders.run([str(path)])
    decoders.close()

    assert flaw.code in {"image-size", "image-broken"}  # Pillow says so, or libpng only fails


def test_each_picture_is_looked_at_once(tmp_path: Path) -> None:
    """A second look would find the file that has gone."""
    picture(tmp_path / "images" / "a.png")
    path = tmp_path / "a.jsonl"
    line = '{"id": "%d", "source": "s", "conversations": [{"images": ["a.png"], "user": "Q"}]}\n'
    path.write_text("".join(line % number for number in range(3)))
    checker = Checker()

    assert list(checker.check(path)) == []
    (tmp_path / "images" / "a.png").unlink()
    path.write_text(line % 4)
    assert list(checker.check(path)) == []
    assert [finding.code for finding in check(path)] == ["image-missing"]


def test_full_finds_what_a_header_hides(tmp_path: Path) -> None:
    data = bytearray(picture(tmp_path / "images" / "a.png").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "images" / "a.png").write_bytes(data)
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "a", "source": "s", "conversations": [{"images": ["a.png"], "user": "Q"}]}\n')

    assert list(check(path)) == []
    (finding,) = check(path, images="full")
    assert (finding.code, finding.pointer) == ("image-broken", "/conversations/0/images/0")


# What each file of the corpus is, by hand: looked at with the tools of its format. The others of the folder are TIFFs.
BROKEN = {
    "bmp_b_badbitcount.bmp", "bmp_b_shortfile.bmp", "broken.png", "broken_data_stream.png", "damaged_jpeg_corrupt.jpg",
    "damaged_png_sigsegv.png", "empty.png", "half.jpg", "png_decompression_dos.png", "truncated_image.png",
    "truncated_jpeg.jpg", "ultrahdr.jpg", "zero_width.gif",
}  # fmt: skip
FINE = {
    "bmp_b_badfilesize.bmp", "bmp_b_badrle.bmp", "broken_exif_dpi.jpg", "invalid-exif.jpg", "junk_jpeg_header.jpg",
    "no_palette.gif",
}  # fmt: skip
VERDICTS: dict[str, set[str]] = {
    **{name: {"image-broken"} for name in BROKEN},
    **{name: set() for name in FINE},
    "bmp_b_reallybig.bmp": {"image-size"},
    "decompression_bomb.gif": {"image-size"},
    "decompression_bomb.ico": {"image-format"},
    "damaged_jpeg_bad_huffman.jpg": {"image-trailing"},
    "html_named.png": {"image-format"},
    "jpeg_named.png": {"image-extension"},
    "negative_size.ppm": {"image-format"},
}


def test_the_corpora_of_real_and_malformed_pictures(shared: Path, tmp_path: Path) -> None:
    """Without the corpora beside the checkout this would have shown a verdict for each of their files, and no crash."""
    for corpus in ("malformed_images", "images"):
        folder = shared / "realdata" / corpus
        names = sorted(path.name for path in folder.iterdir() if stat.S_ISREG(path.stat().st_mode))
        path = tmp_path / f"{corpus}.jsonl"
        path.write_text(
            "".join(
                f'{{"id": "{name}", "source": "s", "conversations": [{{"images": ["{name}"], "user": "Q"}}]}}\n'
                for name in names
            )
        )
        found: dict[str, set[str]] = {name: set() for name in names}
        for finding in Checker(image_root=folder, images="full", jobs=2).check(path):
            found[names[finding.line - 1]].add(finding.code)
        for name, got in found.items():
            tiff = {"image-format"} if name.endswith((".tif", ".tiff")) else set()
            assert got == VERDICTS.get(name, tiff), name
        assert len(names) > 30
