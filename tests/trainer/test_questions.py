"""What is asked, in which order, by whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v.schema import Conversation, Turn
from phi3v.trainer.data import Records
from phi3v.trainer.encode import Encoder
from phi3v.trainer.fit import Fit, fit
from phi3v.trainer.model.tiny import tiny_processor
from phi3v.trainer.questions import Question, deal, distinct_answers, sample, sentence_of, survey

Colours = Callable[..., Path]


def question(number: int, tokens: int = 10, **fields: Any) -> Question:
    defaults: dict[str, Any] = {
        "source": "s",
        "how": Fit(tokens, 1, 1),
        "answer": "yes",
        "listed": False,
        "group": None,
    }
    return Question(number=number, tokens=tokens, **(defaults | fields))


@given(
    st.lists(st.integers(1, 50), max_size=60),
    st.integers(1, 9),
    st.integers(1, 5),
)
def test_each_question_is_dealt_once_and_every_process_asks_equally_often(
    lengths: list[int], batch_size: int, processes: int
) -> None:
    questions = [question(number, tokens) for number, tokens in enumerate(lengths)]

    dealt = deal(questions, batch_size, processes)

    asked = Counter(own.number for asks in dealt for ask in asks if not ask.again for own in ask.questions)
    assert asked == Counter(range(len(lengths)))
    assert len(dealt) == processes
    assert len({len(asks) for asks in dealt}) == 1
    assert all(0 < len(ask.questions) <= batch_size for asks in dealt for ask in asks)


def test_batches_hold_what_is_of_like_length_the_longest_first() -> None:
    questions = [question(number, tokens) for number, tokens in enumerate((5, 90, 7, 80, 6, 100))]

    (asks,) = deal(questions, 3, 1)

    assert [[own.tokens for own in ask.questions] for ask in asks] == [[100, 90, 80], [7, 6, 5]]


def test_without_a_batch_size_as_many_are_asked_as_have_so_many_tokens_with_their_padding() -> None:
    tokens = [30_000, 10_000, 10_000, 10_000, 400, *[100] * 60]
    questions = [question(number, tokens=own) for number, own in enumerate(tokens)]

    (asks,) = deal(questions, None, 1)

    assert [len(ask.questions) for ask in asks] == [1, 2, 2, 60]
    assert [number for ask in asks for number in (own.number for own in ask.questions)] == list(range(65))


def test_few_questions_are_shared_out() -> None:
    dealt = deal([question(number) for number in range(6)], 8, 3)

    assert [[len(ask.questions) for ask in asks] for asks in dealt] == [[2], [2], [2]]


def test_a_sample_is_drawn_by_the_seed_in_the_order_of_the_data() -> None:
    questions = [question(number) for number in range(100)]

    drawn = sample(questions, 10, 7)

    assert drawn == sample(questions, 10, 7)
    assert drawn != sample(questions, 10, 8)
    assert [own.number for own in drawn] == sorted({own.number for own in drawn})
    assert len(drawn) == 10
    assert sample(questions, 100, 7) == sample(questions, None, 7) == questions


def test_what_can_be_scored_is_drawn_first() -> None:
    questions = [question(number, answer="yes" if number in {3, 7} else None) for number in range(9)]

    assert [own.number for own in sample(questions, 2, 0)] == [3, 7]
    four = {own.number for own in sample(questions, 4, 0)}
    assert {3, 7} < four
    assert len(four) == 4


def test_a_sentence_that_is_not_drawn_whole_tells_no_consistency() -> None:
    questions = [question(number, group=f"g{number // 2}") for number in range(40)]

    drawn = sample(questions, 20, 0)

    kept = Counter(own.group for own in drawn if own.group)
    numbers = {own.number for own in drawn}
    assert set(kept.values()) == {2}
    assert kept.keys() == {f"g{pair}" for pair in range(20) if {2 * pair, 2 * pair + 1} <= numbers}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"identifier": "dev-850-0-1"}, "dev-850-1"),
        ({"identifier": "dev-850-3-1"}, "dev-850-1"),
        ({"identifier": "dev-850-0-0"}, "dev-850-0"),
        ({"identifier": "q7"}, None),
        ({"identifier": 7}, None),
        ({}, None),
        (None, None),
    ],
)
def test_pairs_of_one_sentence_share_its_group(metadata: dict[str, Any] | None, expected: str | None) -> None:
    record = Conversation(id="a", source="nlvr2", turns=(Turn(user="Q"),), metadata=metadata)

    assert sentence_of(record) == expected


def test_groups_of_the_real_annotations(shared: Path) -> None:
    import json

    path = shared / "realdata/nlvr2/data/dev.json"
    if not path.exists():
        pytest.skip("no real NLVR2 annotations: that identifiers group by sentence is not shown")
    sentences: dict[str, set[str]] = {}
    for line in path.read_text().splitlines():
        item = json.loads(line)
        record = Conversation(id="a", source="nlvr2", turns=(Turn(user="Q"),), metadata=item)
        sentences.setdefault(str(sentence_of(record)), set()).add(item["sentence"])

    assert len(sentences) > 1000
    assert {len(own) for own in sentences.values()} == {1}


def test_a_survey_measures_as_training_does_without_opening_a_picture(colours: Colours) -> None:
    folder = colours("val", 6, images=lambda number: number % 3, unlabelled=(4,))
    encoder = Encoder(tiny_processor(), folder / "images")
    records = Records([folder / "colours_val.jsonl"])
    for path in (folder / "images").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:-20])  # its header is whole

    questions = list(survey(records, encoder, max_length=100_000))

    assert [own.number for own in questions] == list(range(6))
    assert [own.answer for own in questions] == ["red", "blue", "red", "blue", None, "blue"]
    measured = [encoder.measure(records[number], answered=number != 4).tokens(4) for number in range(6)]
    assert [own.tokens for own in questions] == measured


def test_a_question_has_the_crops_that_it_would_be_trained_with(colours: Colours) -> None:
    folder = colours("val", 3)
    encoder = Encoder(tiny_processor(), folder / "images")
    records = Records([folder / "colours_val.jsonl"])

    (whole, *_), (cut, *_) = (list(survey(records, encoder, limit)) for limit in (100_000, 500))

    assert whole.how == Fit(whole.tokens, whole.how.labelled, 4, texts=whole.tokens - 757, pictures=5)
    assert cut.how == fit(records[0], encoder, 500)
    assert cut.tokens <= 500 < whole.tokens


def test_distinct_answers_by_their_normal_form() -> None:
    questions = [question(number, answer=answer) for number, answer in enumerate(["Yes.", "no", "yes", None, "NO"])]

    assert distinct_answers(questions) == {"yes": "Yes.", "no": "no"}
