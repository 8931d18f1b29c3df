import json
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v.schema import Checker, UserError, check
from phi3v.schema.ids import Ids, Place
from phi3v.schema.jsonl import read_blocks


def line(id_: str) -> str:
    return json.dumps({"id": id_, "source": "s", "conversations": [{"user": "Q"}]}) + "\n"


@given(st.lists(st.sampled_from("abcdefgh"), max_size=30), st.integers(1, 200))
def test_each_but_the_first_is_told_with_the_line_of_the_first(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], size: int
) -> None:
    path = tmp_path_factory.mktemp("ids") / "a.jsonl"
    path.write_text("".join(map(line, names)))
    ids, found = Ids(), []

    for block in read_blocks(path, size=size):
        place = Place(path, block.number, block.offset, len(block.lines))
        own: list[str | None] = [json.loads(data)["id"] for data in block.lines]
        found += [(block.number + index, breach.message) for index, breach in ids.add(place, own)]

    first: dict[str, int] = {}
    expected = []
    for number, name in enumerate(names, 1):
        if name in first:
            expected.append((number, f"id {name!r} is also on line {first[name]}"))
        first.setdefault(name, number)
    assert found == expected


def test_lines_that_are_no_records_are_passed_over_when_the_line_is_looked_up(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_text('{\n[]\n{"id": 1}\n' + line("x"))
    second.write_text(line("x"))
    checker = Checker()
    list(checker.check(first))

    (finding,) = checker.check(second)

    assert finding.message == f"id 'x' is also on line 4 of {first}"


@given(st.lists(st.lists(st.integers(0, 30), max_size=6), max_size=6), st.data())
def test_ascending_or_not_the_same_are_found(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[list[int]], data: st.DataObject
) -> None:
    """Blocks of ids, mostly ascending, with lines between that are no records though they have an id."""
    folder = tmp_path_factory.mktemp("ids")
    numbers = [number for block in blocks for number in block]
    ascending = data.draw(st.integers(0, len(numbers)))
    numbers = sorted(set(numbers[:ascending])) + numbers[ascending:]
    rows = [f"{number:03}" if data.draw(st.integers(0, 9)) else None for number in numbers]
    bad = '{"id": "%03d", "source": "s", "conversations": []}\n'
    text = [bad % number if row is None else line(row) for row, number in zip(rows, numbers, strict=True)]
    cut = data.draw(st.integers(0, len(text)))
    for name, part in (("a", text[:cut]), ("b", text[cut:])):
        (folder / f"{name}.jsonl").write_text("".join(part))
    checker = Checker()

    found = [
        (name, finding.line)
        for name in "ab"
        for finding in checker.check(folder / f"{name}.jsonl")
        if finding.code == "duplicate-id"
    ]

    seen: set[str] = set()
    expected = []
    for index, row in enumerate(rows):
        if row in seen:
            expected.append(("a", index + 1) if index < cut else ("b", index - cut + 1))
        if row is not None:
            seen.add(row)
    assert found == expected


def test_a_pipe_is_refused_since_it_cannot_be_read_again(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(UserError, match="no regular file"):
        list(check(tmp_path / "pipe"))


def test_two_ids_with_one_hash_are_two(tmp_path: Path) -> None:
    class Same(str):
        __slots__ = ()
        __hash__ = lambda _: 7  # noqa: E731

    path = tmp_path / "a.jsonl"
    path.write_text(line("b") + line("a"))

    assert list(Ids().add(Place(path, 1, 0, 2), [Same("b"), Same("a")])) == []


def test_a_file_that_repeats_itself_is_read_again_block_by_block(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(line(f"{number:06}") for number in range(20_000)) * 2)

    found = Counter(finding.code for finding in check(path))

    assert found == {"duplicate-id": 20_000}
