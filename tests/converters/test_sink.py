from pathlib import Path

import pytest

from phi3v.converters.base import Draft
from phi3v.converters.sink import Sink
from phi3v.schema import Turn, UserError


def draft(number: int, split: str = "train") -> Draft:
    image = f"{split}/{number}.jpg"
    turn = Turn(user="Q", assistant="A", images=(image,))
    return Draft(id=f"{split}-{number}", split=split, turns=(turn,), images={image: b"jpeg"})


def test_records_and_images_are_written_by_split(tmp_path: Path) -> None:
    with Sink(tmp_path / "out", "demo", overwrite=False) as sink:
        for number, split in enumerate(["train", "train", "test"]):
            sink.write(draft(number, split))

    written = sorted(str(path.relative_to(tmp_path / "out")) for path in tmp_path.rglob("*") if path.is_file())
    assert written == [
        "demo_test.jsonl",
        "demo_train.jsonl",
        "images/test/2.jpg",
        "images/train/0.jpg",
        "images/train/1.jpg",
    ]
    assert len((tmp_path / "out/demo_train.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_stopped_run_leaves_no_jsonl(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), Sink(tmp_path, "demo", overwrite=False) as sink:
        sink.write(draft(0))
        raise error

    assert list(tmp_path.glob("*")) == [tmp_path / "images"]


def test_a_run_that_fails_at_once_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no plan"), Sink(tmp_path / "out", "demo", overwrite=False):
        raise ValueError("no plan")

    assert list(tmp_path.iterdir()) == []


def test_an_earlier_conversion_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo_val.jsonl").touch()

    with pytest.raises(UserError, match="earlier conversion.*\n.*--overwrite"):
        Sink(tmp_path, "demo", overwrite=False)


def test_an_earlier_conversion_is_replaced_whole_on_request(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / f"demo_{split}.jsonl").write_text("old")

    with Sink(tmp_path, "demo", overwrite=True) as sink:
        sink.write(draft(0))

    assert [path.name for path in tmp_path.glob("*.jsonl")] == ["demo_train.jsonl"]


def test_an_earlier_conversion_survives_a_run_that_never_begins(tmp_path: Path) -> None:
    (tmp_path / "demo_val.jsonl").write_text("old")

    with pytest.raises(ValueError, match="no plan"), Sink(tmp_path, "demo", overwrite=True):
        raise ValueError("no plan")

    assert (tmp_path / "demo_val.jsonl").read_text() == "old"


def test_a_folder_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(UserError, match="cannot write here"):
        Sink(tmp_path / "file" / "out", "demo", overwrite=False)


def test_replacing_removes_the_earlier_images_and_no_others(tmp_path: Path) -> None:
    with Sink(tmp_path, "demo", overwrite=False) as sink:
        sink.write(draft(0))
        sink.write(draft(1, "val"))
    (tmp_path / "images/train/of_another_set.jpg").touch()

    with Sink(tmp_path, "demo", overwrite=True) as sink:
        sink.write(draft(7))

    images = sorted(path.name for path in (tmp_path / "images").rglob("*.jpg"))
    assert images == ["7.jpg", "of_another_set.jpg"]


def test_a_full_disk_at_the_end_leaves_no_split_without_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    sync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    with pytest.raises(UserError, match="No space left on device"), Sink(tmp_path, "demo", overwrite=False) as sink:
        for number, split in enumerate(("train", "val", "test")):
            sink.write(draft(number, split))
        monkeypatch.setattr(os, "fsync", full)

    assert not list(tmp_path.glob("*.jsonl"))
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_folder_of_the_users_stays(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()

    with pytest.raises(ValueError, match="no plan"), Sink(tmp_path / "out", "demo", overwrite=False):
        raise ValueError("no plan")

    assert (tmp_path / "out").is_dir()
