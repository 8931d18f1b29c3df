"""Scores before, during and after a run: what a user of `phi3v-train` relies on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from phi3v.schema import UserError
from phi3v.trainer import evaluate, scorer
from phi3v.trainer.answer import Answers, Wish, answer_file
from phi3v.trainer.checkpoints import checkpoints
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.events import Answered, Note, Scored
from phi3v.trainer.load import load_model, load_processor
from phi3v.trainer.run import train
from phi3v.trainer.scored_loop import ScoredTrainer

Colours = Callable[..., Path]


@pytest.fixture
def data(colours: Colours) -> Path:
    colours("train", 16)
    return colours("val", 5)


def config(data: Path, **options: Any) -> TrainConfig:
    defaults: dict[str, Any] = {
        "output_dir": data.parent / "run",
        "model_name_or_path": "tiny",
        "num_crops": 1,
        "batch_size": 4,
        "max_steps": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_steps": 0,
        "num_workers": 0,
        "max_new_tokens": 3,
        "tqdm": False,
    }
    return TrainConfig(data_dir=data, **(defaults | options))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def history(out: Path) -> list[dict[str, Any]]:
    log: list[dict[str, Any]] = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return log


def test_scores_before_during_and_after_of_every_sample_in_order(data: Path) -> None:
    settings = config(data, eval_steps=2, eval_batch_size=2)

    events = list(train(settings))

    out = settings.output_dir
    assert [event.when for event in events if isinstance(event, Scored)] == ["before", "after"]
    for when in ("before", "step-2", "step-4", "after"):
        answered = lines(out / f"predictions_{when}.jsonl")
        assert [own["id"] for own in answered] == [f"val-{number}" for number in range(5)]
        scores = json.loads((out / f"eval_{when}.json").read_text())
        assert scores["accuracy"] == sum(own["score"] for own in answered) / 5
    logged = {entry["step"]: entry for entry in history(out) if "eval_accuracy" in entry}
    assert logged.keys() == {2, 4}
    for step, entry in logged.items():
        scores = json.loads((out / f"eval_step-{step}.json").read_text())
        assert (entry["eval_accuracy"], entry["eval_loss"]) == (scores["accuracy"], pytest.approx(scores["loss"]))
    assert {own["evaluated"] for own in lines(out / "samples.jsonl") if "evaluated" in own} == {4}
    assert not list(out.glob(".predictions*")), "no journal is left"
    assert (out / "report.html").exists()


def test_scoring_between_steps_changes_no_step(data: Path) -> None:
    plain, scored = (config(data, output_dir=data.parent / name, **more) for name, more in (("a", {}), ("b", SCORED)))

    for settings in (plain, scored):
        list(train(settings))

    losses = [[own["loss"] for own in history(run.output_dir) if "loss" in own] for run in (plain, scored)]
    assert losses[0] == losses[1]


SCORED = {"eval_steps": 1, "metric_for_best": "none", "eval_before": "all"}


def test_the_score_after_is_that_of_the_saved_model(data: Path) -> None:
    settings = config(data, max_steps=8)
    list(train(settings))

    found = answered(settings.output_dir, data / "colours_val.jsonl")

    saved = lines(settings.output_dir / "predictions_after.jsonl")
    assert [own.text for own in found.predictions] == [own["prediction"] for own in saved]


@pytest.mark.parametrize(
    ("wish", "count", "said"),
    [("all", 5, None), ("none", None, None), ("3", 3, "before training on 3 of them, drawn by seed 42")],
)
def test_how_many_are_scored_before(data: Path, wish: str, count: int | None, said: str | None) -> None:
    events = list(train(config(data, max_steps=1, eval_before=wish)))

    found = {event.when: event.total for event in events if isinstance(event, Scored)}
    assert found == ({"after": 5} if count is None else {"before": count, "after": 5})
    notes = " ".join(event.text for event in events if isinstance(event, Note))
    assert "scored on colours_val.jsonl: 5 records, by accuracy" in notes
    assert (said or "scored on") in notes


def test_of_a_large_set_a_drawn_part_is_scored_before(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "WHOLE", 4)
    monkeypatch.setattr(scorer, "DRAWN", 2)

    events = list(train(config(data, max_steps=1)))

    assert [event.total for event in events if isinstance(event, Scored)] == [2, 5]
    assert any("before training on 2 of them" in event.text for event in events if isinstance(event, Note))


def test_a_limit_draws_a_sample_and_says_so(data: Path) -> None:
    events = list(train(config(data, max_steps=1, eval_limit=2)))

    assert [event.total for event in events if isinstance(event, Scored)] == [2, 2]
    assert any("2 records of 5, drawn by seed 42" in event.text for event in events if isinstance(event, Note))


def test_unlabelled_records_are_predicted_and_not_scored(colours: Colours) -> None:
    colours("train", 4)
    data = colours("test", 5, unlabelled=(1, 2))

    events = list(train(config(data, max_steps=1)))

    (_, after) = [event for event in events if isinstance(event, Scored)]
    assert (after.scores[0].count, after.total) == (3, 5)
    answered = lines(data.parent / "run/predictions_after.jsonl")
    assert [own["score"] is None for own in answered] == [False, True, True, False, False]
    assert any("2 without an answer are predicted, not scored" in own.text for own in events if isinstance(own, Note))


def test_only_scores_train_nothing(data: Path) -> None:
    settings = config(data, eval_only=True)

    events = list(train(settings))

    assert [event.when for event in events if isinstance(event, Scored)] == ["only"]
    names = {path.name for path in settings.output_dir.iterdir()}
    assert names == {"eval_only.json", "predictions_only.jsonl"}


def test_scoring_alone_needs_no_training_data_and_scores_as_the_run_did(data: Path) -> None:
    settings = config(data)
    list(train(settings))
    alone = data.parent / "alone"
    alone.mkdir()
    shutil.copytree(data / "images", alone / "images")
    shutil.copy(data / "colours_val.jsonl", alone)
    again = config(alone, model_name_or_path=str(settings.output_dir), output_dir=data.parent / "only", eval_only=True)

    list(train(replace(again, num_crops=None)))  # as the model was trained

    once, twice = (
        lines(path)
        for path in (settings.output_dir / "predictions_after.jsonl", data.parent / "only" / "predictions_only.jsonl")
    )
    assert [own["prediction"] for own in twice] == [own["prediction"] for own in once]
    assert [own["loss"] for own in twice] == pytest.approx([own["loss"] for own in once], rel=1e-5)


def test_a_picture_that_breaks_inside_costs_its_record_its_score_alone(data: Path) -> None:
    (broken, *_) = sorted((data / "images" / "val").iterdir())
    content = bytearray(broken.read_bytes())
    start = content.index(b"IDAT") + 6
    content[start : start + 8] = bytes(8)
    broken.write_bytes(content)  # its ends are whole
    with pytest.raises(UserError, match="cannot read this image of record 'val-"):
        list(train(config(data, eval_only=True)))
    settings = config(data, eval_only=True, on_error="skip", overwrite=True)

    *_, scored = train(settings)

    assert isinstance(scored, Scored)
    assert (scored.total, scored.unread) == (4, 1)
    assert scored.scores[0].count == 4
    told = lines(settings.output_dir / "predictions_only.jsonl")
    assert [own["id"] for own in told] == [f"val-{number}" for number in range(5)]
    (unread,) = (own for own in told if "error" in own)
    assert broken.name in unread["error"]
    assert unread["score"] is None
    assert [
        own.error is None
        for own in answered(Path("tiny"), data / "colours_val.jsonl", on_error="skip", num_crops=1).predictions
    ] == ["error" not in own for own in told]


def test_an_interrupted_evaluation_goes_on(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[int] = Counter()
    predict = evaluate.predict

    def counted(*args: Any) -> Iterator[Any]:
        for batch in predict(*args):
            asked.update(own.number for own in batch)
            yield batch

    monkeypatch.setattr(evaluate, "predict", counted)
    settings = config(data, max_steps=1, eval_batch_size=2)
    events = train(settings)
    for event in events:
        if isinstance(event, Answered):
            break
    events.close()  # as a kill after the first batch

    assert not (settings.output_dir / "eval_before.json").exists()
    assert sum(asked.values()) == 2
    list(train(config(data, max_steps=1, eval_batch_size=2, resume="auto")))

    assert asked == Counter(dict.fromkeys(range(5), 2)), "each once before, each once after"
    before = lines(settings.output_dir / "predictions_before.jsonl")
    assert [own["id"] for own in before] == [f"val-{number}" for number in range(5)]


def answered(model: Path, path: Path, **wish: Any) -> Answers:
    """Answer a file's records by a model's folder."""
    answering = answer_file(str(model), path, Wish(scored=True, max_new_tokens=3, **wish))
    with pytest.raises(StopIteration) as end:
        while True:
            next(answering)
    assert isinstance(end.value.value, Answers)
    return end.value.value


def scores_in_turn(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Have each evaluation during training find the next of these accuracies."""
    evaluate = ScoredTrainer.evaluate
    left = iter(values)

    def told(self: ScoredTrainer, *args: Any, **kwargs: Any) -> dict[str, float]:
        figures = evaluate(self, *args, **kwargs)
        figures["eval_accuracy"] = next(left)
        return figures

    monkeypatch.setattr(ScoredTrainer, "evaluate", told)


def test_the_best_weights_are_kept_saved_and_scored(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores_in_turn(monkeypatch, [0.2, 0.9, 0.4, 0.3])
    settings = config(data, eval_steps=1, save_steps=1, save_total_limit=1)

    events = list(train(settings))

    assert any("the weights of step 2 of 4, which scored best" in own.text for own in events if isinstance(own, Note))
    assert [path.name for path in checkpoints(settings.output_dir)] == ["checkpoint-2", "checkpoint-4"]
    names = ("checkpoint-2", "checkpoint-4", ".")
    best, last, saved = (load_model(str(settings.output_dir / name)).state_dict() for name in names)
    assert all(torch.equal(saved[name], best[name]) for name in best)
    assert not all(torch.equal(saved[name], last[name]) for name in last)
    texts = [
        [own["prediction"] for own in lines(settings.output_dir / f"predictions_{when}.jsonl")]
        for when in ("step-2", "after")
    ]
    assert texts[0] == texts[1]


def test_of_equal_scores_the_lower_loss_is_better(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores_in_turn(monkeypatch, [0.5, 0.5, 0.5, 0.5])
    settings = config(data, eval_steps=1)

    list(train(settings))

    losses = {entry["step"]: entry["eval_loss"] for entry in history(settings.output_dir) if "eval_loss" in entry}
    state = json.loads((settings.output_dir / "trainer_state.json").read_text())
    assert state["best_global_step"] == min(losses, key=lambda step: losses[step])


def test_a_loss_may_choose_the_best(data: Path) -> None:
    settings = config(data, eval_steps=2, metric_for_best="loss", use_lora=True, lora_rank=4)

    events = list(train(settings))

    losses = {entry["step"]: entry["eval_loss"] for entry in history(settings.output_dir) if "eval_loss" in entry}
    best = min(losses, key=lambda step: losses[step])
    assert any(f"the weights of step {best} of 4" in event.text for event in events if isinstance(event, Note))


def test_a_run_ends_where_no_better_score_comes(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores_in_turn(monkeypatch, [0.2, 0.9, 0.4, 0.3, 1.0, 1.0])
    settings = config(data, eval_steps=1, max_steps=6, early_stopping_patience=2)

    list(train(settings))

    assert max(entry["step"] for entry in history(settings.output_dir)) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric_for_best": "anls", "eval_steps": 1}, "--metric_for_best anls is not scored here\n  fix: .*accuracy"),
        ({"metric": "anls"}, "--metric anls: 5 of 5 records have no 'answers'"),
        ({"metric": "auroc", "positive_answer": "green"}, "'green' is none of the answers in the data: 'red', 'blue'"),
    ],
)
def test_what_cannot_be_scored_is_said_before_anything_runs(
    data: Path, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phi3v.trainer import run

    if "metric" in options:
        monkeypatch.setattr(run, "load_model", lambda *_args, **_kwargs: pytest.fail("a model was loaded"))

    with pytest.raises(UserError, match=message):
        list(train(config(data, **options)))
    assert not (data.parent / "run").exists()


def test_a_folder_without_weights_is_said_before_the_data_are_measured(data: Path) -> None:
    load_processor("tiny").save_pretrained(data.parent / "model")

    events: list[Any] = []
    with pytest.raises(UserError, match="model: holds no weights"):
        events.extend(train(config(data, model_name_or_path=str(data.parent / "model"))))
    assert events == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_before": "some"}, "--eval_before some is none of all, none, N"),
        ({"metric": "accuracy,blue"}, "--metric blue is not known"),
        ({"metric_for_best": "loss"}, "--metric_for_best needs scores during the run"),
        ({"early_stopping_patience": 2}, "--early_stopping_patience needs scores during the run"),
        ({"eval_steps": 0}, "--eval_steps 0 is out of range"),
        (
            {"eval_steps": 1, "early_stopping_patience": 2, "metric_for_best": "none"},
            "--early_stopping_patience needs a score to go by",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(data: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(data, **options)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "qlora"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_adapters_are_scored_as_they_train_and_score_the_same_from_their_folder(data: Path, kind: str) -> None:
    if kind == "qlora":
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: QLoRA's scores are not shown")
    settings = config(data, lora_rank=4, max_steps=6, **{f"use_{kind}": True})
    list(train(settings))

    found = answered(settings.output_dir, data / "colours_val.jsonl")

    saved = lines(settings.output_dir / "predictions_after.jsonl")
    assert [own.text for own in found.predictions] == [own["prediction"] for own in saved]


@pytest.mark.slow
def test_two_processes_answer_each_sample_once_and_score_as_one_does(data: Path) -> None:
    """5 samples in batches of 2: the shares are uneven."""
    arguments = "--model_name_or_path tiny --num_crops 1 --batch_size 4 --max_steps 4 --learning_rate 1e-3 --no_tqdm"
    arguments += (
        " --num_workers 0 --max_new_tokens 3 --eval_steps 2 --eval_batch_size 2 --save_steps 0 --logging_steps 1"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    runs = {"one": [sys.executable, "-m", "phi3v.trainer"], "two": [*torchrun, "-m", "phi3v.trainer"]}

    for name, command in runs.items():
        full = [*command, "--data_dir", str(data), "--output_dir", str(data.parent / name), *arguments.split()]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(full, capture_output=True, text=True, check=False, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]

    for when in ("before", "step-2", "step-4", "after"):
        one, two = (lines(data.parent / name / f"predictions_{when}.jsonl") for name in runs)
        assert [own["id"] for own in two] == [f"val-{number}" for number in range(5)]
        assert [own["prediction"] for own in two] == [own["prediction"] for own in one]
        assert [own["loss"] for own in two] == pytest.approx([own["loss"] for own in one], rel=1e-3)
