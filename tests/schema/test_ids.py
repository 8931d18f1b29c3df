import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v.schema import Checker, check
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


def test_two_ids_with_one_hash_are_two(tmp_path: Path) -> None:
    class Same(str):
        __slots__ = ()
        __hash__ = lambda _: 7  # noqa: E731

    path = tmp_path / "a.jsonl"
    path.write_text(line("a") + line("b"))

    assert list(Ids().add(Place(path, 1, 0, 2), [Same("a"), Same("b")])) == []


def test_a_file_that_repeats_itself_is_read_again_block_by_block(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(line(f"{number:06}") for number in range(20_000)) * 2)

    found = Counter(finding.code for finding in check(path))

    assert found == {"duplicate-id": 20_000}
