from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import orjson
import pytest

from phi3v.converters.journal import Converted, Entry, Rejected, Stored
from phi3v.converters.manifest import read_manifest, verify
from phi3v.converters.sink import Sink
from phi3v.schema import Conversation, Turn, UserError

SETTINGS = {"converter": "demo", "options": {"n": 1}, "versions": {}}


def open_sink(out_dir: Path, *, overwrite: bool = False, retry_failed: bool = False, **settings: Any) -> Sink:
    return Sink(out_dir, {**SETTINGS, **settings}, overwrite=overwrite, retry_failed=retry_failed)


def entry(sink: Sink, number: int, split: str = "train", data: bytes = b"jpeg") -> Entry:
    """Stage one image and return its entry, as a worker does."""
    image = f"{split}/{number}.jpg"
    (sink.stage / f"{number}.0").write_bytes(data)
    turn = Turn(user="Q", assistant="A", images=(image,))
    return Converted(
        index=number,
        split=split,
        source=f"{number}.avi",
        line=Conversation(id=f"{split}-{number}", source="demo", turns=(turn,)).to_line(),
        images=(Stored(image, len(data), hashlib.sha256(data).hexdigest()),),
        staged=sink.stage.name,
    )


def write(out_dir: Path, *splits: str, **settings: Any) -> None:
    with open_sink(out_dir, **settings) as sink:
        sink.begin()
        for number, split in enumerate(splits):
            sink.commit(sink.checked(entry(sink, number, split)))
        sink.finish("About.")


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_records_and_images_are_written_by_split(tmp_path: Path) -> None:
    write(tmp_path / "out", "train", "train", "test")

    assert files(tmp_path / "out") == [
        "README.md",
        "demo_test.jsonl",
        "demo_train.jsonl",
        "images.sha256",
        "images/test/2.jpg",
        "images/train/0.jpg",
        "images/train/1.jpg",
        "manifest.json",
    ]
    assert len((tmp_path / "out/demo_train.jsonl").read_text().splitlines()) == 2
    assert list(verify(tmp_path / "out")) == []


def test_nothing_is_made_before_it_begins(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no plan"), open_sink(tmp_path / "out"):
        raise ValueError("no plan")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_stopped_run_leaves_no_jsonl(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), open_sink(tmp_path) as sink:
        sink.begin()
        sink.commit(entry(sink, 0))
        raise error

    assert sorted(path.name for path in tmp_path.iterdir()) == [".convert", "images"]


def test_files_of_no_run_of_ours_are_refused(tmp_path: Path) -> None:
    (tmp_path / "demo_val.jsonl").touch()

    with pytest.raises(UserError, match="earlier conversion.*\n.*--overwrite"):
        open_sink(tmp_path)


def test_they_are_replaced_on_request(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / f"demo_{split}.jsonl").write_text("old")

    write(tmp_path, "train", overwrite=True)

    assert [path.name for path in tmp_path.glob("*.jsonl")] == ["demo_train.jsonl"]


def test_an_earlier_conversion_survives_a_run_that_never_begins(tmp_path: Path) -> None:
    write(tmp_path, "val")

    with pytest.raises(ValueError, match="no plan"), open_sink(tmp_path, overwrite=True):
        raise ValueError("no plan")

    assert list(verify(tmp_path)) == []


def test_replacing_removes_the_earlier_images_and_no_others(tmp_path: Path) -> None:
    write(tmp_path, "train", "val", "val")
    (tmp_path / "images/train/of_another_set.jpg").touch()

    write(tmp_path, "test", overwrite=True, options={"n": 2})

    images = sorted(path.name for path in (tmp_path / "images").rglob("*.jpg"))
    assert images == ["0.jpg", "of_another_set.jpg"]
    assert [(difference.state, difference.name) for difference in verify(tmp_path)] == [
        ("extra", "images/train/of_another_set.jpg")
    ]


def test_another_data_set_in_the_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "train")

    with pytest.raises(UserError, match="converter: demo before, other now"):
        open_sink(tmp_path, converter="other")


def test_other_versions_of_the_libraries_are_other_options(tmp_path: Path) -> None:
    write(tmp_path, "train", versions={"av": "1"})

    with pytest.raises(UserError, match="av: 1 before, 2 now"):
        open_sink(tmp_path, versions={"av": "2"})


def test_a_folder_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(UserError, match="cannot write here"):
        open_sink(tmp_path / "file" / "out")


def test_a_kill_between_a_line_and_its_images_is_made_good(tmp_path: Path) -> None:
    """The journal has the line; the image still waits in the stage."""
    with open_sink(tmp_path) as sink:
        sink.begin()
        sink.commit(entry(sink, 0))
        sink.journal.append(entry(sink, 1))
    assert not (tmp_path / "images/train/1.jpg").exists()

    with open_sink(tmp_path) as sink:
        sink.begin()

        assert [done.index for done in sink.journal.entries()] == [0, 1]
        assert (tmp_path / "images/train/1.jpg").read_bytes() == b"jpeg"
        sink.finish("About.")

    assert list(verify(tmp_path)) == []


@pytest.mark.parametrize("call", range(1, 9))
def test_a_full_disk_at_the_end_leaves_nothing_that_looks_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    sync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == call:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    with pytest.raises(UserError, match="No space left on device"), open_sink(tmp_path / "out") as sink:
        sink.begin()
        for number, split in enumerate(("train", "val", "test")):
            sink.commit(entry(sink, number, split))
        monkeypatch.setattr(os, "fsync", full)
        sink.finish("About.")
    monkeypatch.undo()

    assert not (tmp_path / "out/manifest.json").exists()
    assert len(list((tmp_path / "out").glob("*.jsonl"))) in ({0} if call <= 4 else {0, 1, 2, 3})
    with open_sink(tmp_path / "out") as sink:
        sink.begin()
        sink.finish("About.")
    write(tmp_path / "clean", "train", "val", "test")
    assert files(tmp_path / "out") == files(tmp_path / "clean")
    assert (tmp_path / "out/manifest.json").read_bytes() == (tmp_path / "clean/manifest.json").read_bytes()


def test_a_full_disk_at_an_item_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_sink(tmp_path) as sink:
        sink.begin()
        staged = entry(sink, 0)
        monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))

        with pytest.raises(UserError, match="No space left.*\n.*goes on where it stopped"):
            sink.commit(staged)


def test_a_name_that_another_picture_has_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images/train").mkdir(parents=True)
    (tmp_path / "images/train/0.jpg").write_bytes(b"mine")
    with open_sink(tmp_path) as sink:
        sink.begin()

        checked = sink.checked(entry(sink, 0))

    assert isinstance(checked, Rejected)
    assert checked.what == "images/train/0.jpg is there already, with another content"
    assert (tmp_path / "images/train/0.jpg").read_bytes() == b"mine"


def test_a_damaged_journal_setting_is_no_crash_of_an_overwrite(tmp_path: Path) -> None:
    write(tmp_path, "train")
    (tmp_path / "manifest.json").write_bytes(orjson.dumps({"version": 99}))

    with pytest.raises(UserError, match="no manifest that this version knows"):
        open_sink(tmp_path)
    write(tmp_path, "val", overwrite=True)

    assert read_manifest(tmp_path)["records"] == {"val": 1}
