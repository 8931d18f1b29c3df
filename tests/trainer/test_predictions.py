"""Predictions on disk, and evaluations that were interrupted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from phi3v.trainer.predictions import (
    Journal,
    evaluated,
    predictions_path,
    read_predictions,
    write_evaluation,
    write_predictions,
    write_scores,
)
from phi3v.trainer.scoring import Metrics, Prediction

ACCURACY = Metrics(names={"s": ("accuracy",)}, positive={"s": ""})


def prediction(number: int, text: str = "red", *answers: str, **fields: Any) -> Prediction:
    defaults: dict[str, Any] = {"source": "s", "prompt": "Which?", "tokens": 2}
    return Prediction(number=number, id=f"r-{number}", text=text, answers=answers, **(defaults | fields))


def test_a_line_has_what_was_asked_answered_and_scored(tmp_path: Path) -> None:
    made = [prediction(0, "red", "Red.", "rouge", probability=0.25, loss=0.5), prediction(1, "漢\n")]

    write_predictions(tmp_path / "p.jsonl", made, ACCURACY)

    first, second = read_predictions(tmp_path / "p.jsonl")
    assert first == {
        "id": "r-0",
        "source": "s",
        "prompt": "Which?",
        "prediction": "red",
        "answers": ["Red.", "rouge"],
        "score": 1.0,
        "tokens": 2,
        "probability": 0.25,
        "loss": 0.5,
    }
    assert (second["prediction"], second["answers"], second["score"]) == ("漢\n", [], None)
    assert "loss" not in second


def test_scores_have_the_recipes_keys_and_ids(tmp_path: Path) -> None:
    made = [prediction(number, "red", ("red", "blue")[number % 2], labelled=2, loss=1.0) for number in range(4)]

    write_scores(tmp_path / "eval.json", [*made, prediction(9)], ACCURACY)

    content = json.loads((tmp_path / "eval.json").read_text())
    assert content["accuracy"] == 0.5
    assert content["generated_texts_unique"][1] == {"id": "r-1", "generated_text": "red"}
    assert content["answers_unique"][1] == {"id": "r-1", "answer": "blue", "answers": ["blue"]}
    assert (content["scored"], content["not_scored"]) == (4, 1)
    assert content["per_class"] == {"blue": 0.0, "red": 1.0}
    assert content["confusion"] == {"blue": {"red": 2}, "red": {"red": 2}}
    assert content["loss"] == 0.5
    (score,) = content["scores"]
    assert (score["metric"], score["count"]) == ("accuracy", 4)
    assert score["low"] <= 0.5 <= score["high"]


def test_the_anls_of_documents_has_both_variants(tmp_path: Path) -> None:
    chosen = Metrics(names={"s": ("anls", "anls_recipe")}, positive={"s": ""})

    write_scores(tmp_path / "eval.json", [prediction(0, "the answer", "The answer")], chosen)

    content = json.loads((tmp_path / "eval.json").read_text())
    assert (content["anls"], content["anls_recipe"]) == (1.0, pytest.approx(0.9))


def test_a_journal_gives_back_what_every_process_answered(tmp_path: Path) -> None:
    path = predictions_path(tmp_path, "before")
    made = [prediction(0, "a\n", "x", loss=1.5), prediction(1, "\u2028", probability=0.5, group="g"), prediction(2)]
    journal = Journal(path, {"model": "m"})
    for rank, own in enumerate((made[:2], made[2:])):
        with journal.writing(rank) as note:
            note(own)

    assert sorted(Journal(path, {"model": "m"}).answered(), key=lambda own: own.number) == made
    assert list(Journal(path, {"model": "another"}).answered()) == []


def test_a_journal_goes_on_after_a_line_that_a_kill_has_cut(tmp_path: Path) -> None:
    path = predictions_path(tmp_path, "before")
    with Journal(path, {}).writing(0) as note:
        note([prediction(0), prediction(1)])
    (written,) = tmp_path.iterdir()
    written.write_bytes(written.read_bytes()[:-25])

    with Journal(path, {}).writing(0) as note:
        note([prediction(2)])

    assert [own.number for own in Journal(path, {}).answered()] == [0, 2]


def test_another_evaluations_journal_is_written_over(tmp_path: Path) -> None:
    path = predictions_path(tmp_path, "before")
    for model in ("one", "two"):
        with Journal(path, {"model": model}).writing(0) as note:
            note([prediction(0, model)])

    assert [own.text for own in Journal(path, {"model": "two"}).answered()] == ["two"]
    assert list(Journal(path, {"model": "one"}).answered()) == []

    write_evaluation([prediction(0, "two")], ACCURACY, answers=path, scores=tmp_path / "eval.json")
    assert sorted(own.name for own in tmp_path.iterdir()) == ["eval.json", "predictions_before.jsonl"]


def test_answers_are_counted_over_evaluations(tmp_path: Path) -> None:
    write_predictions(predictions_path(tmp_path, "before"), [prediction(0)], None)
    write_predictions(predictions_path(tmp_path, "step-10"), [prediction(0), prediction(1)], None)

    assert evaluated(tmp_path) == {"r-0": 2, "r-1": 1}


def test_new_weights_in_a_folder_are_other_weights(tmp_path: Path) -> None:
    from phi3v.trainer.load import weights_of

    (tmp_path / "model.safetensors").write_bytes(b"one")
    before = weights_of(str(tmp_path))
    (tmp_path / "README.md").write_text("not a weight")
    assert weights_of(str(tmp_path)) == before
    os.utime(tmp_path / "model.safetensors", ns=(1, 1))

    assert weights_of(str(tmp_path)) != before
    assert weights_of("nobody/a-hub-id") == []
    with Journal(tmp_path / "p.jsonl", {"model": before}).writing(0) as note:
        note([prediction(0)])
    assert list(Journal(tmp_path / "p.jsonl", {"model": before}).answered())
    assert not list(Journal(tmp_path / "p.jsonl", {"model": weights_of(str(tmp_path))}).answered())


def test_the_longest_sample_is_what_every_limit_allows() -> None:
    from phi3v.trainer.model.tiny import tiny_processor
    from phi3v.trainer.plan import longest

    processor = tiny_processor()

    assert longest(processor) == longest(processor, None, 10**9) == 131072
    assert longest(processor, 900, 600) == longest(processor, None, 600) == 600
