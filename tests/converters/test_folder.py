"""Folders of one's own: classes, captions, ImageFolder's metadata, videos, several pictures a record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phi3v.converters import folder
from phi3v.converters.folder import Options
from phi3v.schema import UserError


@pytest.fixture
def lay_out(tmp_path: Path, picture: Callable[..., bytes]) -> Callable[..., Path]:
    """Write pictures by name, each of its own colour, and texts."""

    def write(*names: str, **texts: str) -> Path:
        root = tmp_path / "source"
        for number, name in enumerate(names):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            form = {".jpg": "JPEG", ".gif": "GIF", ".webp": "WEBP"}.get(Path(name).suffix, "PNG")
            (root / name).write_bytes(picture(number, form=form))
        for name, text in texts.items():
            (root / name.replace("__", "/")).write_text(text)
        return root

    return write


def images(record: dict[str, Any]) -> list[str]:
    return [name for turn in record["conversations"] for name in turn.get("images", ())]


# --------------------------------------------------------------------------------------------------------- classes


@pytest.mark.parametrize("val", ["val", "validation", "dev"])
def test_class_folders_below_splits(lay_out: Callable[..., Path], converted: Callable[..., Any], val: str) -> None:
    source = lay_out("train/cat/1.png", "train/dog/1.jpg", f"{val}/cat/2.png", "test/dog/x/3.webp", "train/cat/.x.png")

    done = converted("folder", Options(src_dir=source))

    question = "Classify the image into one of the following classes: cat, dog."
    assert done.turns("train") == [(question, "cat"), (question, "dog")]
    assert done.turns("val") == [(question, "cat")]
    assert done.turns("test") == [(question, "dog")]
    assert images(done.records["test"][0]) == ["test/dog/x/3.webp"]
    assert done.manifest["classes"] == {"train": {"cat": 1, "dog": 1}, "val": {"cat": 1}, "test": {"dog": 1}}


def test_names_that_differ_by_suffix_alone_stay_apart(
    lay_out: Callable[..., Path], converted: Callable[..., Any]
) -> None:
    done = converted("folder", Options(src_dir=lay_out("train/a/1.png", "train/a/1.gif", "train/b/1.png")))

    assert [images(record) for record in done.records["train"]] == [
        ["train/a/1.gif.png"],
        ["train/a/1.png"],
        ["train/b/1.png"],
    ]


def test_without_split_folders_a_hash_decides_and_new_pictures_move_no_old_one(
    lay_out: Callable[..., Path], converted: Callable[..., Any]
) -> None:
    names = [f"{'ab'[n % 2]}/{n:03}.png" for n in range(120)]

    fewer = converted("folder", Options(src_dir=lay_out(*names[:60]), val_fraction=0.25))
    more = converted("folder", Options(src_dir=lay_out(*names), val_fraction=0.25))

    def split_of(result: Any) -> dict[str, str]:
        return {Path(images(r)[0]).name: split for split, found in result.records.items() for r in found}

    assert split_of(fewer).items() <= split_of(more).items()
    assert 15 <= len(more.records["val"]) <= 45


def test_a_record_of_several_pictures_by_a_rule(lay_out: Callable[..., Path], converted: Callable[..., Any]) -> None:
    source = lay_out("train/cat/7_left.png", "train/cat/7_right.png", "train/dog/7_left.png", "train/dog/solo.png")

    done = converted("folder", Options(src_dir=source, record=r"(.+)_(left|right)$"))

    assert [images(record) for record in done.records["train"]] == [
        ["train/cat/7_left.png", "train/cat/7_right.png"],
        ["train/dog/7_left.png"],
        ["train/dog/solo.png"],
    ]
    assert [user.split(" into")[0] for user, _ in done.turns("train")] == [
        "Classify the images",
        "Classify the image",
        "Classify the image",
    ]


def test_what_a_group_finds_lies_in_one_split(lay_out: Callable[..., Path], converted: Callable[..., Any]) -> None:
    names = [f"{label}/person{n // 3:02}_{n}.png" for n in range(60) for label in "ab"]

    done = converted("folder", Options(src_dir=lay_out(*names), group=r"(person\d+)_", val_fraction=0.3))

    splits: dict[str, set[str]] = {}
    for split, records in done.records.items():
        for record in records:
            person = Path(images(record)[0]).name.split("_")[0]
            splits.setdefault(person, set()).add(split)
    assert all(len(found) == 1 for found in splits.values())
    assert len(done.records) == 2


def test_a_video_is_its_frames(
    tmp_path: Path, draw_clip: Callable[..., Path], which_frame: Callable[[bytes], int], converted: Callable[..., Any]
) -> None:
    for name in ("wave/1.avi", "walk/1.mp4"):
        draw_clip(tmp_path / "source/train" / name, 12)

    done = converted("folder", Options(src_dir=tmp_path / "source", num_frames=4))

    record = done.records["train"][1]
    assert images(record) == [f"train/wave/1.avi.{n}.jpg" for n in range(4)]
    assert [which_frame((done.folder / "images" / name).read_bytes()) for name in images(record)] == [0, 3, 6, 9]
    assert done.turns("train")[1] == (
        "Classify the video into one of the following classes: walk, wave.",
        "wave",
    )


def test_what_cannot_be_a_picture_costs_itself(lay_out: Callable[..., Path], converted: Callable[..., Any]) -> None:
    source = lay_out("train/a/1.png", "train/b/1.png", "train/b/2.heic", "train/b/3.avi")
    (source / "train/a/0.jpg").write_bytes(b"<html>404</html>")
    (source / "train/b/3.avi").write_bytes(b"RIFF")
    (source / "train/b/2.heic").write_bytes(b"\0\0\0\x18ftypheic")

    done = converted("folder", Options(src_dir=source), on_error="skip")

    assert len(done.records["train"]) == 2
    assert [(reason, message.split(": ")[0].split("/")[-1]) for reason, message in done.rejected] == [
        ("no-image", "0.jpg"),
        ("no-image", "2.heic"),
        ("no-video", "3.avi"),
    ]


# -------------------------------------------------------------------------------------------------------- captions


def test_a_caption_beside_each_picture(lay_out: Callable[..., Path], converted: Callable[..., Any]) -> None:
    source = lay_out("train/1.png", "train/x/2.jpg", **{"train__1.txt": "\ufeff A red cup.\n"})
    (source / "train/x/2.txt").write_text("Zwei Häuser.", encoding="utf-8")

    done = converted("folder", Options(src_dir=source))

    assert done.turns("train") == [("Describe the image.", "A red cup."), ("Describe the image.", "Zwei Häuser.")]


def test_captions_that_are_missing_empty_or_no_text_cost_their_picture(
    lay_out: Callable[..., Path], converted: Callable[..., Any]
) -> None:
    source = lay_out(*(f"train/{n}.png" for n in range(4)), **{"train__0.txt": "Good.", "train__1.txt": " \n"})
    (source / "train/2.txt").write_bytes("groß".encode("latin-1"))

    done = converted("folder", Options(src_dir=source), on_error="skip")

    assert done.turns("train") == [("Describe the image.", "Good.")]
    assert [reason for reason, _ in done.rejected] == ["no-caption"] * 3
    for (_, message), (name, what) in zip(
        done.rejected, [("1.txt", "an empty"), ("2.txt", "cannot read"), ("3.txt", "no caption")], strict=True
    ):
        assert f"{name}: {what}" in message


def test_a_record_of_several_pictures_has_one_caption(
    lay_out: Callable[..., Path], converted: Callable[..., Any]
) -> None:
    source = lay_out(
        "train/7_1.png", "train/7_2.png", "train/8_1.png", "train/8_2.png",
        **{"train__7_1.txt": "Seven.", "train__8_1.txt": "Eight.", "train__8_2.txt": "Ate."},
    )  # fmt: skip

    done = converted("folder", Options(src_dir=source, record=r"(\d+)_"), on_error="skip")

    assert done.turns("train") == [("Describe the images.", "Seven.")]
    assert "2 captions that differ" in done.rejected[0][1]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_metadata_as_image_folder_has_it(
    lay_out: Callable[..., Path], converted: Callable[..., Any], write_lines: Callable[..., Path], suffix: str
) -> None:
    source = lay_out("train/1.png", "train/deep/2.png", "test/3.png")
    for split, rows in {"train": [("1.png", "One, a cup"), ("deep/2.png", "Two")], "test": [("3.png", "")]}.items():
        if suffix == "csv":
            lines = ["file_name,text", *(f'{name},"{text}"' for name, text in rows)]
            (source / split / "metadata.csv").write_text("\n".join(lines))
        else:
            write_lines(source / split / "metadata.jsonl", *({"file_name": n, "text": t} for n, t in rows))

    done = converted("folder", Options(src_dir=source, prompt=("Say what you see.",)))

    assert done.turns("train") == [("Say what you see.", "One, a cup"), ("Say what you see.", "Two")]
    assert done.turns("test") == [("Say what you see.", None)]
    assert [images(record) for record in done.records["train"]] == [["train/1.png"], ["train/deep/2.png"]]


def test_metadata_with_several_pictures_a_row_and_fields_in_the_prompt(
    lay_out: Callable[..., Path], converted: Callable[..., Any], write_lines: Callable[..., Path]
) -> None:
    source = lay_out("1.png", "2.png", "3.png")
    row = {"before_file_name": "1.png", "file_names": ["2.png", "3.png"], "caption": "It grew.", "who": "the tree"}
    write_lines(source / "metadata.jsonl", row, {**row, "file_names": ["4.png"]})
    options = Options(src_dir=source, caption_column="caption", prompt=("What of {who}?",), val_fraction=0.0)

    done = converted("folder", options, on_error="skip")

    assert done.turns("train") == [("What of the tree?", "It grew.")]
    assert images(done.records["train"][0]) == ["train/1.png", "train/2.png", "train/3.png"]
    assert done.rejected[0][1].startswith("metadata.jsonl:2: picture '4.png' is not there")


# -------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("names", "texts", "wish", "what"),
    [
        ((), {}, {}, "no such folder"),
        (("a/readme.md",), {}, {}, "no pictures or videos here"),
        (("a/1.png", "1.png"), {}, {}, "lies in no class folder"),
        (("a/1.png",), {}, {}, "one class only: 'a'"),
        (("val/a/1.png", "dev/a/1.png"), {}, {}, "two folders are the same split: dev, val"),
        (("a/1.png", "b/1.png"), {}, {"record": "("}, "is no regular expression"),
        (("a/1.png", "b/1.png"), {}, {"prompt": ("{class}?",)}, "--prompt names {class}"),
        (("a/1.png", "b/1.png"), {}, {"val_fraction": -1.0}, "leave nothing for training"),
        (("1.png",), {"metadata.csv": "name,text\n1.png,x"}, {}, "no column file_name among name, text"),
        (("1.png",), {"metadata.csv": "file_name,caption\n1.png,x"}, {}, "no column 'text' among file_name, caption"),
        (("1.png",), {"metadata.csv": "file_name,text"}, {"record": "(.)"}, "--record and --group find nothing"),
        (("train/1.png", "val/1.png"), {"val__metadata.csv": "file_name,text"}, {}, "no metadata file here"),
        (("1.png",), {"metadata.csv": "x", "metadata.jsonl": ""}, {}, "both metadata.csv and metadata.jsonl"),
    ],
)
def test_mistakes_are_told(
    lay_out: Callable[..., Path], names: tuple[str, ...], texts: dict[str, str], wish: dict[str, Any], what: str
) -> None:
    source = lay_out(*names, **texts)

    with pytest.raises(UserError) as caught:
        list(folder.plan(Options(src_dir=source, **wish)))

    assert what in caught.value.what
    assert caught.value.fix


def test_a_video_and_a_picture_are_no_record(
    tmp_path: Path, picture: Callable[..., bytes], draw_clip: Callable[..., Path], converted: Callable[..., Any]
) -> None:
    draw_clip(tmp_path / "source/train/a/7_1.avi", 4)
    (tmp_path / "source/train/a/7_2.png").write_bytes(picture(1))
    (tmp_path / "source/train/b").mkdir()
    (tmp_path / "source/train/b/1.png").write_bytes(picture(2))

    done = converted("folder", Options(src_dir=tmp_path / "source", record=r"(\d+)_"), on_error="skip")

    assert [(reason, "7_1.avi, 7_2.png" in message) for reason, message in done.rejected] == [("mixed", True)]


# ------------------------------------------------------------------------------------------------------- real data


def test_real_clips_in_class_folders(shared: Path, converted: Callable[..., Any]) -> None:
    done = converted("folder", Options(src_dir=shared / "realdata/ucf101/UCF-101", num_frames=2, val_fraction=0.0))

    assert [answer for _, answer in done.turns("train")] == ["ApplyEyeMakeup", "SoccerJuggling"]
    assert all(len(images(record)) == 2 for record in done.records["train"])


def test_no_frames_are_refused_before_any_video(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.mp4").touch()

    with pytest.raises(UserError, match="--num_frames 0 takes no frame"):
        folder.plan(Options(src_dir=tmp_path, num_frames=0))
