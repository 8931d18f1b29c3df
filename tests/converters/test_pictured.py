"""Pictures by path, bytes and address; names that stay apart and lead nowhere else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from phi3v.converters.base import SourceError
from phi3v.converters.pictured import Picked, bring, find_picture, image_folders, name_of
from phi3v.converters.splits import hashed_split, split_of
from phi3v.schema import UserError


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/1.jpg", "a/1"),
        ("a/1.JPG", "a/1"),
        ("a/1.gif", "a/1.gif"),
        ("a b/ü?.png", "a_b/ü_"),
        ("../x/1.png", "x/1"),
        ("noext", "noext"),
        (".hidden.png", "hidden"),
    ],
)
def test_a_name_is_the_path_in_safe_letters(path: str, name: str) -> None:
    assert name_of(PurePosixPath(path)) == name


def test_a_picture_is_found_as_named_then_by_its_last_part(tmp_path: Path, picture: Callable[..., bytes]) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two/documents").mkdir(parents=True)
    (tmp_path / "one/p.png").write_bytes(picture(1))
    (tmp_path / "two/documents/p.png").write_bytes(picture(2))
    folders = [tmp_path / "one", tmp_path / "two"]

    assert find_picture("documents/p.png", folders, where="t:1") == tmp_path / "two/documents/p.png"
    assert find_picture("elsewhere/p.png", folders, where="t:1") == tmp_path / "one/p.png"
    with pytest.raises(SourceError, match=r"^t:1: picture 'q.png' is not there\n.*one, .*two, or give --image_dir"):
        find_picture("q.png", folders, where="t:1")


@pytest.mark.parametrize("name", ["/etc/passwd", "../p.png", "a/../../p.png", "a\\b.png", "a\0.png"])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match="leads out of the image folder") as caught:
        find_picture(name, [tmp_path], where="t:1")
    assert caught.value.reason == "unsafe-path"


def test_image_folders(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()

    assert image_folders(tmp_path, None, ("images", "img")) == [tmp_path / "images"]
    assert image_folders(tmp_path, tmp_path / "images", ()) == [tmp_path / "images"]
    with pytest.raises(UserError, match="no such folder"):
        image_folders(tmp_path, tmp_path / "gone", ())


def test_a_picture_that_a_record_names_twice_is_two(picture: Callable[..., bytes]) -> None:
    brought = bring("train", [Picked("p", picture(1)), Picked("p", picture(1)), Picked("q", picture(2, form="BMP"))])

    assert brought.names == ("train/p.png", "train/p.1.png", "train/q.png")
    assert list(brought.images) == list(brought.names)
    assert brought.notes == ("q: was BMP",)


def test_a_file_that_changes_between_two_records_is_read_again(tmp_path: Path, picture: Callable[..., bytes]) -> None:
    path = tmp_path / "p.png"
    path.write_bytes(picture(1))
    first = bring("train", [Picked("p", path)])
    path.write_bytes(picture(2))
    os.utime(path, ns=(1, 1))

    second = bring("train", [Picked("p", path)])

    assert first.images["train/p.png"] == picture(1)
    assert second.images["train/p.png"] == picture(2)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data/train-00000-of-00008.parquet", "train"),
        ("validation-00000-of-00001.parquet", "val"),
        ("my_val.csv", "val"),
        ("test.csv", "test"),
        ("val_v1.0_withQT.json", "val"),
        ("balanced_dev", "val"),
        ("training/test-1.parquet", "test"),
        ("trainer.csv", None),
        ("contest.csv", None),
        ("latest.csv", None),
    ],
)
def test_a_name_tells_its_split(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_a_hash_splits_as_arithmetic_says() -> None:
    """By hand: the SHA-256 of `a` begins ca978112ca1bbdca, a share of 0.791 of 2**64; that of `g` cd0aa985, 0.801."""
    assert hashed_split("a", 0.79, 0.0) == "train"
    assert hashed_split("a", 0.80, 0.0) == "val"
    assert hashed_split("g", 0.79, 0.02) == "test"
