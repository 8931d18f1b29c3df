"""CSV and TSV: quoting, line ends, encodings; the cases of csv-spectrum are written out by hand."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v.converters.annotations import Fault
from phi3v.converters.delimited import columns_of, read_delimited
from phi3v.schema import UserError


def rows(path: Path, **options: Any) -> list[dict[str, Any]]:
    return [row.data for row in read_delimited(path, "t.csv", **{"delimiter": None, "encoding": None, **options})]


SPECTRUM = {
    "comma_in_quotes": (
        'first,last,address,city,zip\nJohn,Doe,120 any st.,"Anytown, WW",08123\n',
        [{"first": "John", "last": "Doe", "address": "120 any st.", "city": "Anytown, WW", "zip": "08123"}],
    ),
    "empty": ('a,b,c\n1,"",""\n2,3,4\n', [{"a": "1", "b": "", "c": ""}, {"a": "2", "b": "3", "c": "4"}]),
    "escaped_quotes": ('a,b\n1,"ha ""ha"" ha"\n3,4\n', [{"a": "1", "b": 'ha "ha" ha'}, {"a": "3", "b": "4"}]),
    "json": (
        'key,val\n1,"{""type"": ""Point"", ""coordinates"": [102.0, 0.5]}"\n',
        [{"key": "1", "val": '{"type": "Point", "coordinates": [102.0, 0.5]}'}],
    ),
    "newlines": (
        'a,b,c\n1,2,3\n"Once upon \na time",5,6\n7,8,9\n',
        [
            {"a": "1", "b": "2", "c": "3"},
            {"a": "Once upon \na time", "b": "5", "c": "6"},
            {"a": "7", "b": "8", "c": "9"},
        ],
    ),
    "newlines_crlf": ('a,b\r\n"one\r\ntwo",2\r\n', [{"a": "one\r\ntwo", "b": "2"}]),
    "quotes_and_newlines": (
        'a,b\n1,"ha \n""ha"" \nha"\n3,4\n',
        [{"a": "1", "b": 'ha \n"ha" \nha'}, {"a": "3", "b": "4"}],
    ),
    "simple": ("a,b,c\n1,2,3\n", [{"a": "1", "b": "2", "c": "3"}]),
    "simple_crlf": ("a,b,c\r\n1,2,3\r\n", [{"a": "1", "b": "2", "c": "3"}]),
    "location_coordinates": (
        'Coordinates,Contact\n"(40.7, -73.9)","[a, b]"\n',
        [{"Coordinates": "(40.7, -73.9)", "Contact": "[a, b]"}],
    ),
    "utf8": ("a,b,c\n1,2,3\n4,5,ʤ\n", [{"a": "1", "b": "2", "c": "3"}, {"a": "4", "b": "5", "c": "ʤ"}]),
    "no_final_line_feed": ("a,b\n1,2", [{"a": "1", "b": "2"}]),
    "blank_lines": ("a,b\n\n1,2\n\n", [{"a": "1", "b": "2"}]),
}


@pytest.mark.parametrize("name", SPECTRUM)
def test_the_cases_of_csv_spectrum(tmp_path: Path, name: str) -> None:
    text, expected = SPECTRUM[name]
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())

    assert rows(path) == expected


def test_the_published_files_of_csv_spectrum(shared: Path) -> None:
    folder = shared / "realdata/csv/csv-spectrum"
    for path in sorted((folder / "csvs").iterdir()):
        assert rows(path) == json.loads((folder / "json" / f"{path.stem}.json").read_text()), path.name


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_byte_order_marks_tell_the_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "t.csv"
    mark = "\ufeff" if encoding.endswith(("le", "be")) else ""
    path.write_bytes((mark + "frage,antwort\nWie groß?,groß\n").encode(encoding))

    assert rows(path) == [{"frage": "Wie groß?", "antwort": "groß"}]


def test_another_encoding_is_asked_for_by_line_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b\n" + b"1,2\n" * 50_000 + "groß,3\n".encode("cp1252"))

    with pytest.raises(UserError, match="byte 0xdf is not utf-8\n.*--encoding cp1252") as caught:
        rows(path)
    assert caught.value.where == f"{path}:50002"
    assert rows(path, encoding="cp1252")[-1] == {"a": "groß", "b": "3"}


@pytest.mark.parametrize(
    ("suffix", "delimiter", "used"), [(".tsv", None, "\t"), (".csv", None, ","), (".csv", ";", ";")]
)
def test_the_delimiter(tmp_path: Path, suffix: str, delimiter: str | None, used: str) -> None:
    path = tmp_path / f"t{suffix}"
    path.write_text(f"a{used}b\n1,5{used}2;3\n" if used == "\t" else f"a{used}b\n1{used}2\n")

    expected = {"a": "1,5", "b": "2;3"} if used == "\t" else {"a": "1", "b": "2"}
    assert rows(path, delimiter=delimiter) == [expected]


def test_a_delimiter_that_is_not_the_files_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("question;answer\nWhat, then?;this\n")

    with pytest.raises(UserError, match="one column called 'question;answer'\n.*--delimiter ';'"):
        columns_of(path, delimiter=None, encoding=None)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "names no columns"),
        (",,\n1,2,3\n", "names no columns"),
        ("a,b,a\n", "two columns are called 'a'"),
        ('"a\n', "names no columns"),
    ],
)
def test_a_header_that_is_none(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)

    with pytest.raises(UserError, match=what):
        rows(path)


def test_broken_rows_cost_themselves_and_name_the_line_that_they_start_in(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('a,b\n"one\ntwo",2\n1\n1,2,3\n"x"y,2\n5,6\n"never closed,7\n8,9\n')

    found = [(row.place, row.data or row.fault) for row in read_delimited(path, "t", delimiter=None, encoding=None)]

    places = [place for place, _ in found]
    assert places == ["t:2", "t:4", "t:5", "t:6", "t:7", "t:8"]
    assert found[0][1] == {"a": "one\ntwo", "b": "2"}
    assert found[1][1] == Fault("ragged-row", "1 cells, and the header has 2")
    assert found[2][1] == Fault("ragged-row", "3 cells, and the header has 2")
    assert isinstance(found[3][1], Fault)
    assert found[3][1].reason == "not-csv"
    assert found[4][1] == {"a": "5", "b": "6"}
    assert isinstance(found[5][1], Fault)
    assert "unexpected end of data" in found[5][1].what


def test_a_cell_of_a_page_of_text_and_more(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"a,b\n{'x' * 1_000_000},2\n")

    assert len(rows(path)[0]["a"]) == 1_000_000


def test_an_encoding_that_there_is_not(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n")

    for options in ({"encoding": "klingon"}, {"delimiter": "::"}):
        with pytest.raises(UserError, match="check --encoding and --delimiter"):
            rows(path, **options)


CELL = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12)


@given(st.lists(st.tuples(CELL, CELL), max_size=6))
def test_what_csv_writes_is_read_back(tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]]) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerows([("a", "b"), *cells])
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(stream.getvalue().encode())

    assert rows(path) == [{"a": one, "b": other} for one, other in cells]
