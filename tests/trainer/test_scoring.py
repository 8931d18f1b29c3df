"""Which metrics a data set is scored by, and what they make of its predictions."""

from __future__ import annotations

from typing import Any

import pytest

from phi3v.schema import UserError
from phi3v.trainer.fit import Fit
from phi3v.trainer.questions import Question
from phi3v.trainer.scoring import OTHER, Metrics, Prediction, choose_metrics, classes, mean_loss, scores


def question(number: int, **fields: Any) -> Question:
    defaults: dict[str, Any] = {"source": "s", "tokens": 1, "how": Fit(1, 1, 1), "listed": False, "group": None}
    return Question(number=number, **(defaults | {"answer": ("yes", "no")[number % 2]} | fields))


def prediction(number: int, text: str, *answers: str, **fields: Any) -> Prediction:
    defaults: dict[str, Any] = {"source": "s", "prompt": "Q"}
    return Prediction(number=number, id=f"r-{number}", text=text, answers=answers, **(defaults | fields))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"source": "ucf101"}, ("accuracy",)),
        ({"source": "anything"}, ("accuracy",)),
        ({"source": "docvqa", "listed": True}, ("anls", "anls_recipe", "exact_match")),
        ({"source": "hateful_memes"}, ("accuracy", "auroc")),
        ({"source": "nlvr2", "group": "dev-1-0"}, ("accuracy", "consistency")),
    ],
)
def test_the_source_chooses(fields: dict[str, Any], expected: tuple[str, ...]) -> None:
    chosen = choose_metrics([question(number, **fields) for number in range(4)])

    assert chosen.names == {fields["source"]: expected}
    assert chosen.headline == expected[0]
    assert chosen.left_out == ()


@pytest.mark.parametrize(
    ("fields", "left", "why"),
    [
        ({"source": "docvqa"}, ("accuracy",), "anls is left out: 4 of 4 records have no 'answers'"),
        ({"source": "nlvr2"}, ("accuracy",), "consistency is left out: no record tells its sentence"),
        ({"source": "hateful_memes", "answer": "Yes"}, ("accuracy",), "every answer in the data is 'Yes'"),
    ],
)
def test_what_the_data_do_not_allow_is_left_out_and_said(
    fields: dict[str, Any], left: tuple[str, ...], why: str
) -> None:
    chosen = choose_metrics([question(number, **fields) for number in range(4)])

    assert chosen.names == {fields["source"]: left}
    assert why in " ".join(chosen.left_out)


@pytest.mark.parametrize(
    ("asked", "positive", "message"),
    [
        ("anls", None, "--metric anls: 4 of 4 records have no 'answers'"),
        ("exact_match", None, "--metric exact_match: 4 of 4"),
        ("consistency", None, "--metric consistency: no record tells its sentence"),
        ("auroc", None, "--metric auroc: no positive answer is named; it is of the answers in the data: 'yes', 'no'"),
        ("auroc", "hateful", "--metric auroc: the positive answer 'hateful' is none of the answers in the data"),
    ],
)
def test_a_metric_asked_for_that_the_data_do_not_allow_is_an_error(
    asked: str, positive: str | None, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        choose_metrics([question(number) for number in range(4)], asked=[asked], positive_answer=positive)

    assert message in str(caught.value)
    assert "\n  fix: " in str(caught.value)


def test_nothing_to_score_against_is_an_error() -> None:
    with pytest.raises(UserError, match="no record has an answer to score against"):
        choose_metrics([question(0, answer=None)])


def test_a_metric_asked_for_is_taken_for_any_source() -> None:
    chosen = choose_metrics([question(number) for number in range(4)], asked=["auroc"], positive_answer="YES.")

    assert chosen.names == {"s": ("auroc",)}
    assert chosen.positive == {"s": "yes"}


def test_unlabelled_records_are_in_no_score() -> None:
    own = Metrics(names={"s": ("accuracy",)}, positive={"s": ""})

    (score,) = scores([prediction(0, "a", "a"), prediction(1, "b", "c"), prediction(2, "d")], own)

    assert (score.value, score.count) == (0.5, 2)
    assert own.of_sample(prediction(2, "d")) is None


def test_auroc_is_of_probabilities_not_of_texts() -> None:
    own = Metrics(names={"s": ("accuracy", "auroc")}, positive={"s": "yes"})
    answered = [
        prediction(0, "no", "Yes", probability=0.4),
        prediction(1, "no", "Yes.", probability=0.3),
        prediction(2, "no", "No", probability=0.1),
        prediction(3, "no", "No", probability=0.3),
    ]

    accuracy, auroc = scores(answered, own)

    assert accuracy.value == 0.5
    assert auroc.value == pytest.approx(3.5 / 4)  # one of four pairs is tied
    assert auroc.low <= auroc.value <= auroc.high


def test_consistency_counts_sentences() -> None:
    own = Metrics(names={"nlvr2": ("accuracy", "consistency")}, positive={"nlvr2": ""})
    answered = [
        prediction(number, "True", answer, source="nlvr2", group=group)
        for number, (answer, group) in enumerate([("True", "a"), ("True", "a"), ("True", "b"), ("False", "b")])
    ]

    accuracy, consistency = scores([*answered, prediction(9, "True", "True", source="nlvr2")], own)

    assert accuracy.value == 4 / 5
    assert (consistency.value, consistency.count) == (0.5, 2)


def test_several_sources_have_scores_of_their_own_and_a_mean_over_samples() -> None:
    own = Metrics(names={"a": ("accuracy",), "b": ("anls",)}, positive={"a": "", "b": ""})
    answered = [
        prediction(0, "x", "x", source="a"),
        prediction(1, "kitten", "sitting", source="b"),
        prediction(2, "x", "x", source="b"),
    ]

    found = scores(answered, own)

    assert [score.metric for score in found] == own.all_names == ["score", "a/accuracy", "b/anls"]
    assert own.headline == "score"
    assert [score.value for score in found] == pytest.approx([(1 + 4 / 7 + 1) / 3, 1, (4 / 7 + 1) / 2])


def test_the_loss_is_a_mean_over_tokens() -> None:
    answered = [prediction(0, "", "a", loss=6.0, labelled=2), prediction(1, "", "b", loss=1.0, labelled=8)]

    assert mean_loss(answered) == 0.7
    assert mean_loss([prediction(0, "", "a")]) is None


def test_answers_are_classes_where_they_come_again() -> None:
    twice = [prediction(number, "red", ("red", "blue")[number % 2]) for number in range(4)]
    once = [prediction(number, "x", str(number)) for number in range(4)]

    table = classes([*twice, prediction(9, "green", "red")])

    assert table is not None
    assert {name: dict(row) for name, row in table.items()} == {"blue": {"red": 2}, "red": {"red": 2, OTHER: 1}}
    assert classes(once) is None
