import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from phi3v.schema.locate import Columns, pointer_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def every_path(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from every_path(inner, (*path, key))
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from every_path(inner, (*path, index))


@given(VALUES, st.sampled_from([None, 1]), st.booleans())
def test_the_column_is_where_the_value_starts(value: Any, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)

    columns = Columns(text)
    for path, expected in every_path(value):
        start = columns.span(path).column - 1
        found, end = json.JSONDecoder().raw_decode(text, start)
        assert columns.span(path) == (start + 1, end + 1)
        assert found == expected
        assert type(found) is type(expected)


def test_a_missing_key_is_at_its_object() -> None:
    assert Columns(' {"a": [{"b": 1}]}').span(("a", 0, "c")).column == 9


def test_of_a_key_that_stands_twice_the_last_counts_as_for_parsers() -> None:
    assert Columns('{"a": 1, "a": 2}').span(("a",)).column == 15


def test_brackets_and_quotes_in_strings_are_no_structure() -> None:
    text = r'{"a": "}]\"{[", "b": 1}'

    assert Columns(text).span(("b",)).column == text.index("1") + 1


def test_depth_does_not_matter() -> None:
    deep = "[" * 1000 + "]" * 1000

    assert Columns(f'{{"a": {deep}, "b": 1}}').span(("b",)).column == 2_000 + 14


def test_a_key_that_is_repeated_is_told_with_its_path_and_column() -> None:
    text = '{"a": {"x": 1, "x": 2}, "b": [{}, {"c": 0, "c": 0}], "a": {"x": 3, "x": 4}}'

    repeated = Columns(text).repeated

    assert repeated == [
        (("a", "x"), (16, 19)), (("b", 1, "c"), (44, 47)), (("a",), (54, 57)), (("a", "x"), (68, 71)),
    ]  # fmt: skip
    assert Columns(text).span(("a", "x")).column == text.index("4") + 1


def test_memory_grows_with_the_line_and_not_with_its_depth() -> None:
    text = "[" * 1000 + "0," * 50_000 + "0" + "]" * 1000
    tracemalloc.start()

    columns = Columns(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert columns.span((*[0] * 999, 50_000)).column == 1000 + 2 * 50_000 + 1
    assert peak < 30e6  # a path for each value would take 400 MB


def test_pointers_are_escaped_as_rfc_6901_says() -> None:
    assert pointer_of(("a/b", 0, "m~n", "")) == "/a~1b/0/m~0n/"
    assert pointer_of(()) == ""


def test_many_places_of_one_line_cost_one_pass() -> None:
    """200,000 places in a line of 1.3 MB: with a search for each it would take hours."""
    text = json.dumps({"a": list(range(200_000))})

    columns = Columns(text)

    assert columns.span(("a", 0)).column == 8
    assert columns.span(("a", 199_999)).column == len(text) - 1 - len("199999")
