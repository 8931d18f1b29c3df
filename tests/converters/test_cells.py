"""Cells one by one: what is empty, what a text or a list is, which pictures and turns a cell holds."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3v.converters.base import SourceError
from phi3v.converters.cells import conversation_of, is_empty, list_of, picked, text_of


def text(cell: Any) -> str:
    return text_of(cell, where="t:1", column="c")


def parts(cell: Any, separator: str | None = None) -> list[Any]:
    return list_of(cell, separator=separator, where="t:1", column="c")


@pytest.mark.parametrize("cell", [None, math.nan, "", " \t\n", [], ()])
def test_what_is_empty(cell: Any) -> None:
    assert is_empty(cell)
    assert text(cell) == ""
    assert parts(cell) == []


@pytest.mark.parametrize("cell", [0, 0.0, False, "0", "None", [0]])
def test_what_is_not(cell: Any) -> None:
    assert not is_empty(cell)
    assert text(cell)


@given(st.integers())
@settings(deadline=None)
def test_whole_numbers_are_their_digits(number: int) -> None:
    assert text(number) == str(number)
    if abs(number) < 2**53:
        assert text(float(number)) == str(number)


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(deadline=None)
def test_no_number_changes_its_value(number: float) -> None:
    assert float(text(number)) == number


def test_other_kinds() -> None:
    assert text(Decimal("1.50")) == "1.50"
    assert text(dt.datetime(2024, 2, 29, 12, 30)) == "2024-02-29T12:30:00"  # noqa: DTZ001  # as tables have them
    assert text({"a": [1, None]}) == '{"a":[1,null]}'
    with pytest.raises(SourceError, match="t:1: 'c' holds bytes, no text"):
        text(b"x")


@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1), min_size=1))
@settings(deadline=None)
def test_a_json_list_is_read_back_without_its_blanks(texts: list[str]) -> None:
    assert parts(json.dumps(texts)) == parts(texts) == [one for one in texts if one.strip()]


@pytest.mark.parametrize("cell", ["[1, 2", "['a']", "[a]", "[1] and more", "[" * 10_000])
def test_what_begins_like_a_list_is_one_or_an_error(cell: str) -> None:
    with pytest.raises(SourceError, match="begins like a JSON list and is none"):
        parts(cell)


def test_parts_between_a_separator() -> None:
    assert parts("a | b ||c", "|") == ["a", "b", "c"]
    assert parts('["a|b"]', "|") == ["a|b"], "a list is a list"
    assert parts(7, "|") == [7]


# -------------------------------------------------------------------------------------------------------- pictures


@pytest.fixture
def pick(tmp_path: Path, picture: Callable[..., bytes]) -> Callable[..., Any]:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.png").write_bytes(picture(1))

    def pick(cell: Any, *, allow_download: bool = False) -> Any:
        return picked(cell, number=3, folder=tmp_path, where="t:1", stem="t-000007", allow_download=allow_download)

    return pick


def test_bytes_are_named_by_their_row(pick: Callable[..., Any]) -> None:
    for cell in (b"x", {"bytes": b"x", "path": "/somewhere/else.png"}):
        assert (pick(cell).name, pick(cell).data) == ("t-000007-3", b"x")


def test_paths_are_named_as_they_are(pick: Callable[..., Any], tmp_path: Path) -> None:
    for cell in ("a/1.png", {"bytes": None, "path": "a/1.png"}, str(tmp_path / "a/1.png")):
        assert (pick(cell).name, pick(cell).data) == ("a/1", tmp_path / "a/1.png")


def test_a_link_that_leads_out_is_no_way_out(pick: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")

    with pytest.raises(SourceError, match="leads out of the image folder"):
        pick(str(tmp_path / "link/hostname"))


def test_addresses_of_one_name_stay_apart(pick: Callable[..., Any]) -> None:
    names = {
        pick(address, allow_download=True).name
        for address in ("http://a/x.png", "http://b/x.png", "http://a/x.png?size=2")
    }

    assert len(names) == 3
    assert all(name.startswith("x-") for name in names)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (7, "no-image"),
        ({"bytes": None, "path": None}, "no-image"),
        ("http://a/x.png", "address"),
        ("s3://bucket/x.png", "address"),
        ("file:///etc/hostname", "address"),
        ("data:image/png;base64,AA", "address"),
        ("a/2.png", "missing-image"),
        ("../x.png", "unsafe-path"),
        ("/etc/hostname", "unsafe-path"),
    ],
)
def test_what_is_no_picture_says_why(pick: Callable[..., Any], cell: Any, reason: str) -> None:
    with pytest.raises(SourceError) as caught:
        pick(cell)

    assert caught.value.reason == reason
    assert caught.value.fix


# ----------------------------------------------------------------------------------------------------------- turns


def test_the_spellings_of_turns() -> None:
    for cell in (
        [{"user": "Q", "assistant": "A"}],
        [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}],
        [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}],
        '[{"from": "user", "value": "Q"}, {"from": "assistant", "value": "A"}]',
    ):
        assert list(conversation_of(cell, where="t:1", column="c")) == [("user", "Q"), ("assistant", "A")]


@pytest.mark.parametrize(
    "turn", ["Q", 7, {"role": "tool", "content": "x"}, {"role": "user", "content": [{"text": "x"}]}]
)
def test_a_turn_of_another_kind_is_quoted(turn: Any) -> None:
    with pytest.raises(SourceError, match="'c' holds a turn that is not known"):
        list(conversation_of([turn], where="t:1", column="c"))
