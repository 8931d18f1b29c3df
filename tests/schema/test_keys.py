import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from phi3v.schema.keys import count_keys, may_repeat_keys, repeated_keys

NAMES = st.sampled_from(["a", "b", ":", 'x":', "a b"])
PAIRS = st.recursive(
    st.integers(0, 9) | st.sampled_from(["", ":", '":', "{"]),
    lambda inner: (
        st.lists(st.tuples(NAMES, inner), max_size=3).map(lambda pairs: ("object", pairs))
        | st.lists(inner, max_size=3).map(lambda items: ("list", items))
    ),
    max_leaves=8,
)


def written(value: Any, blank: str) -> str:
    """JSON of pairs, in which a key may stand twice."""
    if not isinstance(value, tuple):
        return json.dumps(value)
    kind, items = value
    if kind == "list":
        return f"[{','.join(written(item, blank) for item in items)}]"
    return f"{{{','.join(f'{json.dumps(key)}{blank}:{written(item, blank)}' for key, item in items)}}}"


def repeats(value: Any) -> int:
    """How many keys stand in their object not for the first time, by hand."""
    if not isinstance(value, tuple):
        return 0
    kind, items = value
    if kind == "list":
        return sum(map(repeats, items))
    found, seen = 0, set()
    for key, _ in items:
        found += key in seen
        seen.add(key)
    return found + sum(repeats(item) for _, item in items)


@settings(max_examples=500)
@given(PAIRS, st.sampled_from(["", " ", "\t"]))
def test_a_repeated_key_is_never_missed(value: Any, blank: str) -> None:
    text = written(value, blank)
    found = repeated_keys(text)

    assert len(found) == repeats(value)
    if found:
        assert may_repeat_keys(text, count_keys(json.loads(text)))
    for path, (column, end) in found:
        assert json.loads(text[column - 1 : end - 1]) == path[-1]


@given(
    st.recursive(
        st.text(max_size=3) | st.none(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=9,
    )
)
def test_keys_are_counted_as_they_are_written(value: Any) -> None:
    counted = 0

    def count(pairs: list[tuple[str, Any]]) -> None:
        nonlocal counted
        counted += len(pairs)

    json.loads(json.dumps(value), object_pairs_hook=count)

    assert count_keys(value) == counted


def test_plain_documents_need_no_second_look() -> None:
    assert not may_repeat_keys('{"a": "x: y", "b": {"a": ["c"]}}', 3)
    assert may_repeat_keys('{"a": 1, "a" : 1}', 1)  # equal by chance, but for the blank


def test_the_place_is_the_later_key() -> None:
    assert repeated_keys('{"a": 1, "b": 2, "a": 3}') == [(("a",), (18, 21))]
    assert repeated_keys('{"a": {"x": 1}, "a": {"x": 2}}') == [(("a",), (17, 20))]
    assert repeated_keys('[{"k": {"j": 0, "j": 0}}]') == [((0, "k", "j"), (17, 20))]


def test_a_key_written_with_escapes_ends_where_it_ends() -> None:
    assert repeated_keys('{"a": 1, "\\u0061": 2}') == [(("a",), (10, 18))]


def test_depth_and_long_numbers_do_not_hide_a_key() -> None:
    deep = "[" * 1_000 + "]" * 1_000

    assert [path for path, _ in repeated_keys(f'{{"a": {deep}, "a": {"9" * 5_000}}}')] == [("a",)]
