"""Rows of annotation files: their places, what is wrong with them, and files that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from phi3v.converters.annotations import Row, read_document, read_json_lines, refuse_again
from phi3v.converters.base import SourceError
from phi3v.schema import UserError


def places(path: Path) -> list[tuple[str, dict[str, object]]]:
    return [(row.place, row.data) for row in read_json_lines(path, "t")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"a": 1}\n{"a": 2}\n', [("t:1", {"a": 1}), ("t:2", {"a": 2})]),
        (b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}', [("t:1", {"a": 1}), ("t:3", {"a": 2})]),
        ('{"a": "x\u2028y"}\n'.encode(), [("t:1", {"a": "x\u2028y"})]),
        (b'[{"a": 1},\n {"a": 2}]', [("t:[0]", {"a": 1}), ("t:[1]", {"a": 2})]),
        (b"", []),
    ],
)
def test_lines_and_lists(tmp_path: Path, text: bytes, expected: list[tuple[str, dict[str, object]]]) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(text)

    assert places(path) == expected


@pytest.mark.parametrize(
    ("line", "column", "what"),
    [
        (b'{"a": 1,}', 9, "before .}"),
        (b'{"a": "\xff"}', 8, "0xff is not UTF-8"),
        (b'{"a": Infinity}', 7, "Infinity"),
        (b"[" * 100_000, 1, "depth limit"),
    ],
)
def test_a_broken_line_keeps_its_place_and_costs_itself(tmp_path: Path, line: bytes, column: int, what: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')

    one, broken, other = read_json_lines(path, "t")

    assert (one.data, other.data) == ({"a": 1}, {"a": 2})
    assert broken.place.startswith("t:2:")
    assert int(broken.place.split(":")[2]) >= column
    with pytest.raises(SourceError, match=what) as caught:
        broken.check()
    assert caught.value.reason == "not-json"


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("\ufeff{}".encode("utf-16-le"), "the file is UTF-16", "iconv -f UTF-16"),
        (b"\x1f\x8b\x08", "compressed by gzip", "gzip -dc"),
    ],
)
def test_a_file_that_is_no_text_says_what_it_is(tmp_path: Path, text: bytes, what: str, fix: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(text)

    with pytest.raises(UserError, match=what) as caught:
        list(read_json_lines(path, "t"))
    assert fix in str(caught.value.fix)


def test_a_file_that_is_not_there_offers_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "val.json").write_text("[]")

    with pytest.raises(UserError) as caught:
        read_document(tmp_path / "train.json", "t")
    assert caught.value.what == "no such annotation file"
    assert caught.value.fix == "choose one that is there: val.json"
    with pytest.raises(UserError, match="cannot read it"):
        list(read_json_lines(tmp_path, "t"))


def test_fields_that_are_not_what_they_should_be_are_quoted() -> None:
    row = Row("t:3", {"text": " ", "list": ["a", 1], "none": None, "good": ["a", " "]})

    with pytest.raises(SourceError, match=r"^t:3: 'text' is a text, not ' '\n"):
        row.text("text")
    with pytest.raises(SourceError, match="'absent' is a text, and is missing"):
        row.text("absent")
    with pytest.raises(SourceError, match=r"'list' is a list of texts, not \['a', 1\]"):
        row.texts("list")
    assert row.texts("good") == ("a",)
    assert row.texts("none") == row.texts("absent") == ()


def test_a_key_belongs_to_one_row() -> None:
    seen: dict[object, str] = {}
    refuse_again(seen, 7, Row("t:1", {}), "id 7")
    refuse_again(seen, 7, Row("t:1", {}), "id 7")

    with pytest.raises(SourceError, match="^t:4: id 7 is also that of t:1\n"):
        refuse_again(seen, 7, Row("t:4", {}), "id 7")


def test_every_file_of_json_test_suite_is_rows_or_an_error(shared: Path) -> None:
    """318 good, bad and odd documents: none crashes the reader, and no bad one passes for a list of objects."""
    files = sorted((shared / "realdata/malformed_json/test_parsing").glob("*.json"))
    for path in files:
        for read in (lambda one: read_document(one, "t").rows, lambda one: list(read_json_lines(one, "t"))):
            try:
                rows = read(path)
            except UserError:
                continue
            if path.name.startswith("n_"):
                assert all(row.fault for row in rows), path.name
    assert len(files) > 100
