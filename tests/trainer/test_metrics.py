"""Every metric against another package's, or against arithmetic by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from anls import anls_score
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, roc_auc_score

from phi3v.trainer.metrics import (
    anls,
    anls_recipe,
    auroc,
    auroc_interval,
    confusion,
    is_correct,
    is_exact,
    mean_interval,
    normalise,
    whole_groups,
)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(" Yes. ", "yes"), ("BabyCrawling", "babycrawling"), ("3.5", "3.5"), ("...", ""), ("A .", "a ")],
)
def test_the_recipes_normaliser(answer: str, expected: str) -> None:
    assert normalise(answer) == expected


def test_any_accepted_answer_is_right() -> None:
    assert is_correct("two.", ["2", "Two"])
    assert not is_correct("three", ["2", "Two"])
    assert not is_correct("two", [])


def test_exact_is_to_the_letter() -> None:
    assert is_exact(" 0.28 ", ["0.3", "0.28"])
    assert not is_exact("Yes.", ["Yes"])
    assert not is_exact("yes", ["Yes"])


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("0.28", ["0.28"], 1.0),
        ("1/8/93", ["1/8/93", "January 8"], 1.0),
        ("University  of California", ["university of california"], 1.0),
        ("kitten", ["sitting"], 1 - 3 / 7),  # Levenshtein's own example
        ("itc limted", ["ITC Limited"], 1 - 1 / 11),
        ("abcd", ["abxy"], 0.0),  # half is wrong: not below the threshold
        ("abcde", ["abcxy"], 1 - 2 / 5),
        ("", ["1"], 0.0),
        ("a", ["a very long answer", "a"], 1.0),
    ],
)
def test_anls_by_hand(prediction: str, answers: list[str], expected: float) -> None:
    assert anls(prediction, answers) == pytest.approx(expected)


# Without letters that are longer in upper case: there the package divides by another length than it compares.
TEXTS = st.text(alphabet="aAbB .\t0É漢", max_size=9)


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=4))
def test_anls_is_the_anls_packages(prediction: str, answers: list[str]) -> None:
    assert anls(prediction, answers) == pytest.approx(anls_score(prediction, answers))


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("  The answer... ", ["The answer"], 1.0),
        ("the answer", ["The answer"], 0.9),  # case counts
        ("The answer", ["The answer."], 1 - 1 / 11),  # the answers are taken as they are
        ("THE", ["the"], 0.0),
        ("...", ["x"], 0.0),
        ("", ["x"], 0.0),
    ],
)
def test_the_recipes_anls_by_hand(prediction: str, answers: list[str], expected: float) -> None:
    assert anls_recipe(prediction, answers) == pytest.approx(expected)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.5000001, 1.0]), st.booleans()), min_size=2, max_size=40))
def test_auroc_is_scikit_learns_ties_included(samples: list[tuple[float, bool]]) -> None:
    scores, positive = zip(*samples, strict=True)

    value = auroc(scores, positive)

    if len(set(positive)) == 1:
        assert math.isnan(value)
    else:
        assert value == pytest.approx(roc_auc_score(positive, scores))


def test_auroc_by_hand() -> None:
    # Of the 2 x 3 pairs, 4 are in order and one is tied.
    assert auroc([0.9, 0.4, 0.4, 0.1, 0.7], [True, True, False, False, False]) == pytest.approx(4.5 / 6)


def test_consistency_takes_whole_groups() -> None:
    groups = ["a", "b", "a", "c", "b", "a"]
    correct = [True, True, True, False, True, False]

    assert whole_groups(correct, groups) == [False, True, False]


def test_the_confusion_table_is_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    names = ["cat", "dog", "eel"]
    answers = [names[number] for number in generator.integers(3, size=60)]
    predictions = [names[number] for number in generator.integers(3, size=60)]

    table = confusion(zip(answers, predictions, strict=True), other="?")

    assert list(table) == names
    ours = [[table[row][column] for column in names] for row in names]
    assert ours == confusion_matrix(answers, predictions, labels=names).tolist()


def test_a_prediction_of_no_class_is_another_answer() -> None:
    table = confusion([("Yes.", "yes"), ("No", "maybe"), ("yes", "NO.")], other="?")

    assert {name: dict(row) for name, row in table.items()} == {"No": {"?": 1}, "Yes.": {"Yes.": 1, "No": 1}}


def test_the_interval_of_a_mean_is_that_of_theory() -> None:
    values = [1.0, 0.0] * 200

    low, high = mean_interval(values)

    error = 1.96 * math.sqrt(0.25 / 400)
    assert (low, high) == pytest.approx((0.5 - error, 0.5 + error), abs=0.01)
    assert mean_interval(values) == (low, high), "the same data have the same interval"


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        low, high = mean_interval((generator.random(60) < 0.7).astype(float))
        covered += low <= 0.7 <= high

    assert 0.89 <= covered / 200 <= 0.99


def test_the_interval_of_auroc_holds_it_and_narrows() -> None:
    generator = np.random.default_rng(2)
    widths = []
    for count in (40, 640):
        positive = generator.random(count) < 0.5
        scores = generator.normal(size=count) + positive
        low, high = auroc_interval(scores, positive)
        assert low <= auroc(scores, positive) <= high
        widths.append(high - low)

    assert 2 < widths[0] / widths[1] < 8  # 4 in theory


def test_equal_values_have_no_spread() -> None:
    assert mean_interval([1.0] * 5) == (1.0, 1.0)
