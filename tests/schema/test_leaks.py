"""What splits share, against sets built by hand, and on the real NLVR2 annotations."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from phi3v.schema import Checker, Finding
from phi3v.schema.check import jsonl_files
from phi3v.schema.fingerprint import fingerprint, near_pairs
from phi3v.schema.leaks import ties_of

Write = Callable[..., Path]


def record(id_: str, images: list[str], source: str = "s", **metadata: Any) -> dict[str, Any]:
    extra = {"metadata": metadata} if metadata else {}
    turn = {"images": images, "user": "Q", "assistant": "A"}
    return {"id": id_, "source": source, "conversations": [turn], **extra}


def leaks(folder: Path, *, images: Any = "none", near: bool = False) -> list[Finding]:
    checker = Checker(images=images, across=True)
    found = [finding for path in jsonl_files(folder) for finding in checker.check(path)]
    return [*found, *checker.leaks(near_duplicates=near)]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(name: str, *records: dict[str, Any]) -> Path:
        path = tmp_path / f"s_{name}.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in records))
        return path

    return make


def drawn(path: Path, seed: int, size: tuple[int, int] = (240, 200), **options: Any) -> None:
    """A picture of a few shapes: the same at any size for the same seed."""
    big = Image.new("RGB", (960, 800), (seed * 40 % 256, 90, 200))
    draw = ImageDraw.Draw(big)
    for number in range(6):
        left, top = (seed * 131 + number * 277) % 700, (seed * 71 + number * 193) % 560
        colour = ((seed + number) * 53 % 256, number * 40, (seed * number * 31) % 256)
        draw.ellipse((left, top, left + 240, top + 230), fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    big.resize(size).save(path, **options)


@pytest.mark.parametrize(
    ("source", "image", "words"),
    [
        ("ucf101", "train/Archery/v_Archery_g07_c03.0.jpg", "UCF-101 group Archery g07"),
        ("nlvr2", "dev/dev-850-1-img0.png", "NLVR2 set dev-850"),
        ("nlvr2", "train/12/train-4100-0-img1.png", "NLVR2 set train-4100"),
        ("docvqa", "documents/ffbg0227_2.png", "document ffbg0227"),
        ("hateful_memes", "img/08291.png", "meme 8291"),
    ],
)
def test_a_data_sets_own_names_tell_its_groups(source: str, image: str, words: str) -> None:
    (tie,) = ties_of(record("a", [image, image], source))

    assert (tie.code, tie.words, tie.path) == ("leak-group", words, ("conversations", 0, "images", 1))
    assert ties_of(record("a", [image], "another")) == []


def test_metadata_ties_too() -> None:
    ties = ties_of(record("a", [], group=7, left_url="https://a/b.jpg", urls=["http://c/d"], note="see https://a"))

    assert [(tie.code, tie.words) for tie in ties] == [
        ("leak-group", "group 7 of s"),
        ("leak-url", "https://a/b.jpg"),
        ("leak-url", "http://c/d"),
    ]
    assert [tie.path for tie in ties] == [("metadata", "group"), ("metadata", "left_url"), ("metadata", "urls", 0)]


def test_each_shared_group_is_told_once_for_each_later_split(write: Write, tmp_path: Path) -> None:
    clip = "v_Archery_g07_c0{}.jpg"
    write("train", *(record(f"t{number}", [clip.format(number)], "ucf101") for number in range(3)))
    write("val", *(record(f"v{number}", [clip.format(number + 3)], "ucf101") for number in range(3)))
    write("test", record("x", ["v_Archery_g08_c01.jpg"], "ucf101"))

    (finding,) = leaks(tmp_path)

    assert (finding.code, finding.severity, finding.line) == ("leak-group", "warning", 1)
    assert finding.file.endswith("s_val.jsonl")
    assert finding.message == "UCF-101 group Archery g07 is also in s_train.jsonl:1"


def test_two_files_of_one_split_may_share(write: Write, tmp_path: Path) -> None:
    write("train", record("a", ["a.jpg"], group=1))
    (tmp_path / "s2_train.jsonl").write_text(json.dumps(record("b", ["a.jpg"], group=1)) + "\n")

    assert leaks(tmp_path) == []


def test_the_same_file_in_two_splits(write: Write, tmp_path: Path) -> None:
    write("train", record("a", ["x/a.jpg"]))
    write("val", record("b", ["y.jpg"]), record("c", ["y.jpg", "x/a.jpg"]))

    (finding,) = leaks(tmp_path)

    assert (finding.code, finding.line, finding.pointer) == ("leak-image", 2, "/conversations/0/images/1")
    assert finding.message == "'a.jpg' is also in s_train.jsonl:1"


def test_the_same_bytes_under_two_names(write: Write, tmp_path: Path) -> None:
    drawn(tmp_path / "images/a.png", 1)
    (tmp_path / "images/b.png").write_bytes((tmp_path / "images/a.png").read_bytes())
    (tmp_path / "images/twin.png").write_bytes((tmp_path / "images/a.png").read_bytes())
    drawn(tmp_path / "images/c.png", 2)
    write("train", record("a", ["a.png"]), record("b", ["twin.png"]))  # the same twice in one split is no leak
    write("val", record("c", ["c.png"]), record("d", ["b.png"]))

    (finding,) = leaks(tmp_path, images="header")

    assert (finding.code, finding.line, finding.pointer) == ("leak-image", 2, "/conversations/0/images/0")
    assert finding.excerpt is not None
    assert finding.excerpt.text[finding.excerpt.start :].startswith('"b.png"')
    digest = hashlib.sha256((tmp_path / "images/a.png").read_bytes()).hexdigest()[:12]
    assert finding.message == f"'b.png' has the bytes (sha256 {digest}...) of 'a.png' in s_train.jsonl:1"
    assert finding.file == str(tmp_path / "s_val.jsonl")


def test_a_picture_that_goes_while_others_are_checked_is_no_leak(write: Write, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        drawn(tmp_path / "images" / name, 1)
    write("train", record("a", ["a.png"]))
    write("val", record("b", ["b.png"]))
    checker = Checker(across=True)
    assert [finding for path in jsonl_files(tmp_path) for finding in checker.check(path)] == []

    (tmp_path / "images/a.png").unlink()

    assert list(checker.leaks(near_duplicates=True)) == []


def test_pictures_that_look_alike(write: Write, tmp_path: Path) -> None:
    drawn(tmp_path / "images/a.png", 1)
    drawn(tmp_path / "images/small.jpg", 1, (120, 100), quality=60)
    drawn(tmp_path / "images/same.png", 1)
    drawn(tmp_path / "images/other.png", 3)
    Image.new("RGB", (50, 50)).save(tmp_path / "images/black.png")
    Image.new("RGB", (60, 50), "white").save(tmp_path / "images/white.png")
    write("train", record("a", ["a.png", "black.png"]))
    write("val", record("b", ["small.jpg"]), record("c", ["other.png"]), record("d", ["same.png", "white.png"]))

    assert [finding.code for finding in leaks(tmp_path, images="header")] == ["leak-image"]
    found = leaks(tmp_path, images="header", near=True)

    assert [(finding.code, finding.line) for finding in found] == [("leak-near-duplicate", 1), ("leak-image", 3)]
    big, small = (fingerprint(str(tmp_path / "images" / name)) for name in ("a.png", "small.jpg"))
    assert big is not None
    assert small is not None
    assert f"'small.jpg' looks, but for {(big ^ small).bit_count()} of 64 bits, like 'a.png'" in found[0].message


def test_a_fingerprint_outlives_scaling_and_compression(tmp_path: Path) -> None:
    prints = []
    for seed in range(1, 9):
        drawn(tmp_path / "a.png", seed)
        drawn(tmp_path / "b.jpg", seed, (480, 400), quality=50)
        own = fingerprint(str(tmp_path / "a.png")), fingerprint(str(tmp_path / "b.jpg"))
        assert None not in own
        assert (own[0] ^ own[1]).bit_count() <= 3  # type: ignore[operator]
        prints.append(own[0])
    assert all((one ^ two).bit_count() > 3 for one in prints for two in prints if one != two)  # type: ignore[operator]
    (tmp_path / "c.png").write_bytes(b"no picture")
    assert fingerprint(str(tmp_path / "c.png")) is None


@given(
    st.lists(st.integers(0, 2**64 - 1), max_size=20), st.lists(st.tuples(st.integers(0, 19), st.integers(0, 2**64 - 1)))
)
def test_near_pairs_are_all_pairs_that_are_near(prints: list[int], changes: list[tuple[int, int]]) -> None:
    for index, mask in changes:  # neighbours of what is there, at a distance of few bits
        if index < len(prints):
            prints.append(prints[index] ^ (mask & mask >> 7 & mask >> 19 & mask >> 31 & mask >> 43))

    brute = {(i, j) for j in range(len(prints)) for i in range(j) if (prints[i] ^ prints[j]).bit_count() <= 3}
    assert set(near_pairs(prints)) == brute
    assert len(list(near_pairs(prints))) == len(brute)


def test_shared_addresses_of_the_real_nlvr2(shared: Path, tmp_path: Path) -> None:
    """From metadata alone: no picture is opened. The splits are made by set, as the official ones are: only the
    official dev file is at hand. Without it, this would have shown that each address in two splits is found once.
    """
    lines = (shared / "realdata/nlvr2/data/dev.json").read_text().splitlines()
    addresses: dict[str, set[str]] = defaultdict(set)
    files: dict[str, list[str]] = defaultdict(list)
    for row in map(json.loads, lines):
        set_ = int(row["identifier"].split("-")[1])
        split = ("train", "val")[set_ % 2]
        images = [f"{row['identifier'].rsplit('-', 1)[0]}-img{side}.png" for side in (0, 1)]
        urls = {"left_url": row["left_url"], "right_url": row["right_url"]}
        files[split].append(json.dumps(record(row["identifier"], images, "nlvr2", **urls)) + "\n")
        for url in urls.values():
            addresses[url].add(split)
    for split, rows in files.items():
        (tmp_path / f"nlvr2_{split}.jsonl").write_text("".join(rows))
    both = {url for url, splits in addresses.items() if len(splits) == 2}

    found = leaks(tmp_path)

    assert len(lines) == 6982
    assert both
    assert sorted(finding.message.split(" ")[0] for finding in found) == sorted(both)
    assert {finding.code for finding in found} == {"leak-url"}  # and no set lies in both


def test_the_sets_of_nlvr2_that_a_random_split_tears_apart(shared: Path, tmp_path: Path) -> None:
    """Without the real file this would have shown that a split by line is found out, set by set."""
    lines = (shared / "realdata/nlvr2/data/balanced/balanced_dev.json").read_text().splitlines()
    sets: dict[str, set[int]] = defaultdict(set)
    files: dict[int, list[str]] = defaultdict(list)
    for number, row in enumerate(map(json.loads, lines)):
        pair = row["identifier"].rsplit("-", 1)[0]
        sets[pair.rsplit("-", 1)[0]].add(number % 3 == 0)
        files[number % 3 == 0].append(json.dumps(record(row["identifier"], [f"{pair}-img0.png"], "nlvr2")) + "\n")
    for split, rows in files.items():
        (tmp_path / f"nlvr2_{('train', 'test')[split]}.jsonl").write_text("".join(rows))
    torn = sorted(f"NLVR2 set {name}" for name, splits in sets.items() if len(splits) == 2)

    found = [finding.message.split(" is also")[0] for finding in leaks(tmp_path) if finding.code == "leak-group"]

    assert torn
    assert sorted(found) == torn
