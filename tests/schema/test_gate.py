"""The gate must never pass a line that the slow way has something to say about; that it passes good ones is speed."""

import gc
import json
import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from phi3v.schema.contract import _NO_PATH, schema_text
from phi3v.schema.gate import Gate, _tags_fit, collector_off
from phi3v.schema.lines import examine
from phi3v.schema.rules import image_tags
from phi3v.schema.tokens import CONTROL_TOKENS

FIXTURES = Path(__file__).parents[2] / "fixtures"
QUESTION = "Classify it into one of the following classes: Boat, Car."
# Pieces of what the rules, the raw-text searches and the counting of colons look at.
TEXTS = st.lists(
    st.sampled_from(
        [
            "Q", " ", "\n", ":", '":', '" :', "\\", "<", "|", "<|", "<|end|>", "</s>", "<|image_1|>", "<|image_2|>",
            "<|image_01|>", "ä", "\u2028", "\u3000", "{", "}", "//", "/.", QUESTION, "Boat", "\\u003c",
        ]
    ),
    max_size=3,
).map("".join)  # fmt: skip
PATHS = st.lists(st.sampled_from(["a", ".", "..", "/", "//", "\\", "\n", " ", "ä", "a.b", "a..b"]), max_size=5).map(
    "".join
)
KEYS = st.sampled_from(["a", ":", "a:", '"', "<|end|>", ""])
METADATA = st.dictionaries(
    KEYS,
    st.recursive(
        TEXTS | st.integers() | st.none(),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=2),
        max_leaves=4,
    ),
    max_size=2,
)
TURN = st.fixed_dictionaries(
    {"user": TEXTS},
    optional={
        "images": st.lists(PATHS, max_size=2),
        "assistant": TEXTS,
        "answers": st.lists(TEXTS, max_size=2),
    },
)
RECORD = st.fixed_dictionaries(
    {"id": TEXTS, "source": st.just("s"), "conversations": st.lists(TURN, max_size=2)},
    optional={"system": TEXTS, "metadata": METADATA},
)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """A record as JSON, in several hands, now and then with a key named twice, escaped letters or blanks."""
    separators = draw(st.sampled_from([(", ", ": "), (",", ":"), (" , ", " : "), (",\t", "\t:\r")]))
    text = json.dumps(draw(RECORD), ensure_ascii=draw(st.booleans()), separators=separators)
    for _ in range(draw(st.integers(0, 1))):
        at = draw(st.sampled_from([found.end() for found in re.finditer("{", text)]))
        key = draw(st.sampled_from(['"user"', '"id"', '"a"', '":"', '"\\u0061"', '"user" ']))
        text = f"{text[:at]}{key}:{draw(st.sampled_from(['1', '{}']))}{draw(st.sampled_from([',', '']))}{text[at:]}"
    if draw(st.integers(0, 3)) == 0:
        text = text.replace("<", "\\u003c").replace(":", draw(st.sampled_from([":", "\\u003a"])), 1)
    return text.encode()


GATES = {answered: Gate(answered=answered) for answered in (True, False)}


def says_nothing(line: bytes, *, answered: bool) -> bool:
    return not examine(line, answered=answered)[1]


@settings(max_examples=800, deadline=None)
@given(st.lists(lines(), min_size=1, max_size=3), st.booleans())
def test_what_passes_leaves_nothing_to_say(block: list[bytes], answered: bool) -> None:
    passed = GATES[answered].records([line + b"\n" for line in block])

    if passed is not None:
        assert all(says_nothing(line, answered=answered) for line in block)
        assert passed == [orjson.loads(line) for line in block]


@pytest.mark.parametrize("path", sorted((FIXTURES / "invalid").glob("*.jsonl")), ids=lambda path: path.stem)
def test_what_is_wrong_does_not_pass(path: Path) -> None:
    block = path.read_bytes().splitlines(keepends=True)
    of_lines = {"json", "schema", "duplicate-key", "missing-assistant", "unanswered", "blank-text", "control-token"}
    if path.name.split(".")[0] in of_lines | {"image-tag", "answer-not-listed", "encoding"}:
        assert Gate(answered=True).records(block) is None


@pytest.mark.parametrize(
    "line",
    [
        '{"id": "a", "source": "s", "conversations": [{"images": ["x/a.jpg"], "user": "At 10:30?", "assistant": "A"}]}',
        '{"id": "a", "source": "s", "conversations": [{"images": ["a"], "user": "<|image_1|>\\nQ", "assistant": "A"}]}',
        '{"id": "a", "source": "s", "conversations": [{"user": "Q", "assistant": "A"}, {"user": "R"}]}',
        '{"id": "a", "source": "s", "conversations": [{"user": "Q", "assistant": "A"}], "metadata": {"u": "http://a/"}}',
        '{"id": "a", "source": "s", "conversations": [{"user": "ä < b", "assistant": "A"}], "metadata": {"": {}}}',
        json.dumps({"id": "a", "source": "s", "conversations": [{"user": QUESTION, "assistant": "Car"}]}),
    ],
)
def test_what_is_common_passes_at_once(line: str) -> None:
    assert says_nothing(line.encode(), answered=False)
    assert GATES[False].records([line.encode(), line.encode()]) is not None


def test_an_open_turn_passes_only_where_it_may_be_open() -> None:
    line = b'{"id": "a", "source": "s", "conversations": [{"user": "Q"}]}'
    open_first = b'{"id": "a", "source": "s", "conversations": [{"user": "Q"}, {"user": "Q", "assistant": "A"}]}'

    assert Gate(answered=False).records([line]) is not None
    assert Gate(answered=True).records([line]) is None
    assert Gate(answered=False).records([open_first]) is None


@pytest.mark.parametrize("token", CONTROL_TOKENS)
def test_no_token_passes(token: str) -> None:
    for text in (token, f"a{token}", token.replace("<", "\\u003c"), token.replace("e", "\\u0065")):
        line = f'{{"id": "a", "source": "s", "conversations": [{{"user": "Q{text}", "assistant": "A"}}]}}'.encode()
        assert GATES[False].records([line]) is None


@given(st.text(alphabet="./\\\x00\n\x1f\x7fa ä", max_size=8))
@example("a\n")
@example("..")
def test_the_two_patterns_of_a_path_agree(path: str) -> None:
    image = json.loads(schema_text())["$defs"]["image"]

    assert bool(re.search(image["pattern"], path)) == bool(path and not re.search(_NO_PATH.replace("$", r"\Z"), path))


def test_each_answer_is_held_against_its_own_question() -> None:
    def line(question: str, answer: str) -> bytes:
        turn: dict[str, Any] = {"user": question, "assistant": answer}
        return json.dumps({"id": "a", "source": "s", "conversations": [turn]}).encode()

    other = QUESTION.replace("Boat", "Plane")
    gate = Gate(answered=True)

    assert gate.records([line(QUESTION, "Boat"), line(other, "Plane"), line("Which?", "Any")])
    assert gate.records([line(QUESTION, "Plane"), line(other, "Plane")]) is None
    assert gate.records([line(QUESTION, "Boat"), line(other, "Boat")]) is None


def test_tags_of_several_records_are_counted_in_each() -> None:
    def line(question: str, images: int) -> bytes:
        turn: dict[str, Any] = {"images": ["a.jpg"] * images, "user": question, "assistant": "A"}
        return json.dumps({"id": "a", "source": "s", "conversations": [turn]}).encode()

    one, two, first_of_two = line("<|image_1|>", 1), line("<|image_2|> or <|image_1|>", 2), line("<|image_1|>", 2)

    assert GATES[True].records([one, two, line("Q", 2)])
    assert GATES[True].records([one, first_of_two]) is None
    assert GATES[True].records([one, line("<|image_1|><|image_1|>", 2)]) is None


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(["<|image_1|>", "<|image_2|>", "Q", "\x01", " "]), min_size=1, max_size=4).map(
                "".join
            ),
            st.sampled_from([0, 1, 1, 1, 2]),
        ),
        min_size=1,
        max_size=4,
    )
)
@example([("<|image_1|>Q\x01<|image_1|>", 1), ("Q", 1)])
@example([("<|image_1|>", 1), ("<|image_1|>", 0)])
def test_what_is_seen_of_many_questions_at_once_is_what_each_says(questions: list[tuple[str, int]]) -> None:
    records = [
        {"conversations": [{"images": ["a.jpg"] * images, "user": question, "assistant": "A"}]}
        for question, images in questions
    ]
    turns = [turn for record in records for turn in record["conversations"]]

    assert _tags_fit(records, turns, ["A"]) is not any(next(image_tags(record), None) for record in records)


TURN_WITH_IMAGE = {"images": ["a.jpg"], "user": "Q", "assistant": "A"}


@pytest.mark.parametrize(
    ("fields", "right"),
    [
        ({"conversations": [TURN_WITH_IMAGE | {"user": "a < b"}], "system": "S"}, True),
        ({"conversations": [TURN_WITH_IMAGE], "system": "<|image_1|>"}, False),
        ({"conversations": [TURN_WITH_IMAGE | {"answers": ["A", "<|image_1|>"]}]}, False),
        ({"conversations": [TURN_WITH_IMAGE | {"answers": ["A"], "user": "<|image_1|>"}], "system": "S"}, True),
        ({"conversations": [TURN_WITH_IMAGE | {"answers": ["A"]}], "system": "<|image_1|>"}, False),
        ({"conversations": [TURN_WITH_IMAGE | {"user": f"<|image_{number}|>"} for number in (2, 1)]}, True),
        ({"conversations": [TURN_WITH_IMAGE | {"user": "<|image_1|>"}] * 2}, False),
    ],
)
def test_tags_stand_in_questions_alone_and_count_over_all_turns(fields: dict[str, Any], *, right: bool) -> None:
    line = json.dumps({"id": "a", "source": "s", **fields}).encode()

    assert (GATES[True].records([line]) is not None) is right
    assert says_nothing(line, answered=True) is right


def test_an_answer_of_the_list_stays_right_however_often_it_comes() -> None:
    gate = Gate(answered=True)

    def line(answer: str) -> bytes:
        turn: dict[str, Any] = {"user": QUESTION, "assistant": answer}
        return json.dumps({"id": "a", "source": "s", "conversations": [turn]}).encode()

    assert [gate.records([line(answer)]) is not None for answer in ("Boat", "Boat", "boat", "Car", "boat")] == [
        True, True, False, True, False,
    ]  # fmt: skip


def test_the_collector_is_as_it_was() -> None:
    for was_on in (True, False):
        (gc.enable if was_on else gc.disable)()
        with collector_off():
            assert not gc.isenabled()
        assert gc.isenabled() is was_on
    gc.enable()
