import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v.schema import Conversation, RecordError, Turn
from phi3v.schema.contract import schema_text

LINE = (
    '{"id": "a", "source": "s", "system": "Be brief.", "conversations": [{"images": ["x/ä.jpg"], "user": "Q", '
    '"assistant": "A", "answers": ["A", "a"]}], "metadata": {"n": 1}}\n'
)

TEXT = st.text(st.characters(codec="utf-8"), min_size=1)
IMAGE = st.from_regex(r"[a-zä ]{1,4}(/[a-z.]{0,2}[a-z0-9]){0,3}", fullmatch=True)
TURNS = st.builds(
    Turn,
    user=TEXT,
    assistant=st.none() | TEXT,
    images=st.lists(IMAGE, max_size=3).map(tuple),
    answers=st.lists(TEXT, max_size=2).map(tuple),
)
RECORDS = st.builds(
    Conversation,
    id=TEXT,
    source=TEXT,
    turns=st.lists(TURNS, min_size=1, max_size=3).map(tuple),
    system=st.none() | TEXT,
    metadata=st.none() | st.dictionaries(TEXT, st.integers(-(2**53), 2**53) | st.booleans() | st.none() | TEXT),
)


def test_a_record_has_one_byte_form() -> None:
    assert Conversation.from_line(LINE).to_line() == LINE


@given(RECORDS)
def test_what_is_written_reads_back_equal(record: Conversation) -> None:
    line = record.to_line()

    assert Conversation.from_line(line) == record
    assert line.endswith("}\n")
    assert "\n" not in line[:-1]


def test_absent_fields_are_left_out() -> None:
    record = Conversation(id="a", source="s", turns=(Turn(user="Q"),))

    assert record.to_line() == '{"id": "a", "source": "s", "conversations": [{"user": "Q"}]}\n'


def test_images_are_those_of_all_turns_in_order() -> None:
    turns = (Turn(user="Q", images=("b", "a")), Turn(user="Q"), Turn(user="Q", images=("c",)))

    assert Conversation(id="a", source="s", turns=turns).images == ("b", "a", "c")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[]", "a record is an object"),
        ('{"source": "s", "conversations": [{"user": "Q"}]}', "'id' is missing"),
        ('{"id": "", "source": "s", "conversations": [{"user": "Q"}]}', "'id' is a text"),
        ('{"id": "a", "source": "s", "conversations": []}', "at least one turn"),
        ('{"id": "a", "source": "s", "conversations": ["Q"]}', "a turn is an object"),
        ('{"id": "a", "source": "s", "conversations": [{"user": 1}]}', "'user' is a text"),
        ('{"id": "a", "source": "s", "conversations": [{"user": "Q", "images": "a.jpg"}]}', "'images' is a list"),
        ('{"id": "a", "source": "s", "conversations": [{"user": "Q", "image": []}]}', "'image' is not a field"),
        ('{"id": "a", "source": "s", "conversations": [{"user": "Q"}], "metadata": 1}', "'metadata' is an object"),
        ('{"id": "a", "source": "s", "conversations": [{"user": "Q", "answers": []}]}', "at least one text"),
        ('{"id": "a", "source": "s", "conversations": [{"user": "Q", "assistant": null}]}', "'assistant' is a text"),
        ('{"id": "a", "source": "s", "system": null, "conversations": [{"user": "Q"}]}', "'system' is a text"),
        ("{", "not JSON"),
    ],
)
def test_what_is_no_record_is_refused_with_the_reason(line: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        Conversation.from_line(line)


@pytest.mark.parametrize("metadata", [{"x": float("nan")}, {"x": float("inf")}])
def test_what_json_cannot_say_is_not_written(metadata: dict[str, float]) -> None:
    with pytest.raises(RecordError, match="cannot be written"):
        Conversation(id="a", source="s", turns=(Turn(user="Q"),), metadata=metadata).to_line()


def test_a_lone_surrogate_is_not_written() -> None:
    with pytest.raises(RecordError, match="surrogates not allowed"):
        Conversation(id="a", source="s", turns=(Turn(user="\ud800"),)).to_line()


def test_the_schema_names_its_version_and_knows_every_field_that_records_write() -> None:
    schema = json.loads(schema_text())
    written = json.loads(LINE)

    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"].endswith(":1.0")
    assert list(schema["properties"]) == list(written)
    assert list(schema["$defs"]["turn"]["properties"]) == list(written["conversations"][0])


@pytest.mark.parametrize(
    "path", ["", "/a.jpg", "../a.jpg", "a/../b.jpg", "./a.jpg", "a//b.jpg", "a/", "a\\b", "a\n", ".."]
)
def test_a_path_that_is_none_makes_no_turn(path: str) -> None:
    with pytest.raises(RecordError, match="not a relative path"):
        Turn(user="Q", images=(path,))


@pytest.mark.parametrize("fields", [{"id": ""}, {"source": ""}, {"system": ""}, {"turns": ()}])
def test_an_empty_field_makes_no_record(fields: dict[str, Any]) -> None:
    with pytest.raises(RecordError):
        Conversation(**({"id": "a", "source": "s", "turns": (Turn(user="Q"),)} | fields))
