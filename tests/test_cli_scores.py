"""`phi3v-model evaluate` and `predict`, and presets, as a user types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def data(grey_levels: Callable[[int], Path]) -> Path:
    """6 pictures, of which the last has no answer."""
    folder = grey_levels(6)
    lines = [json.loads(line) for line in (folder / "grey_train.jsonl").read_text().splitlines()]
    del lines[-1]["conversations"][0]["assistant"]
    own = (line | {"id": line["id"].replace("g", "t")} for line in lines)
    (folder / "grey_test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in own))
    return folder


def test_evaluate_prints_scores_and_writes_answers(run: Run, data: Path, tmp_path: Path) -> None:
    options = ("--metric", "accuracy", "--max_new_tokens", 2, "--output", tmp_path / "scores.json")

    done = run("phi3v-model", "evaluate", "--model", "tiny", "--data", data / "grey_test.jsonl", *options)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("accuracy: 0.0000 on 5 samples (95 %: 0.0000 to 0.0000)\n")
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert (scores["scored"], scores["not_scored"]) == (5, 1)
    lines = [json.loads(line) for line in (tmp_path / "predictions_scores.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"t-{number}" for number in range(6)]
    assert not list(tmp_path.glob(".*.part"))


def test_predict_answers_a_file_labelled_or_not(run: Run, data: Path) -> None:
    done = run("phi3v-model", "predict", "--model", "tiny", "--data", data / "grey_test.jsonl", "--max_new_tokens", 2)

    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["id"] for line in lines] == [f"t-{number}" for number in range(6)]
    assert lines[-1]["answers"] == []
    assert {line["score"] for line in lines} == {None}


def test_predict_streams_one_answer_that_a_file_gives_too(run: Run, data: Path) -> None:
    images = ["--image", data / "images/0.png"]

    one = run("phi3v-model", "predict", "--model", "tiny", *images, "--max_new_tokens", 6, "How bright?")
    many = run("phi3v-model", "predict", "--model", "tiny", "--data", data / "grey_test.jsonl", "--max_new_tokens", 6)

    assert one.returncode == 0, one.stderr
    first = json.loads(many.stdout.splitlines()[0])["prediction"]
    assert one.stdout == f"{first}\n"


def test_an_answer_comes_in_pieces() -> None:
    from phi3v.trainer.answer import answer

    pieces = list(answer("tiny", "What is this?", [], max_new_tokens=6))

    assert len(pieces) > 1
    assert all(pieces)


def test_an_answer_that_nobody_reads_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    from phi3v.trainer import answer as module

    written: list[int] = []
    generate = module.generate

    def counted(*args: Any, **options: Any) -> Any:
        (own,) = generate(*args, **options)
        written.append(own.tokens)
        return [own]

    monkeypatch.setattr(module, "generate", counted)
    pieces = module.answer("tiny", "What is this?", [], max_new_tokens=4000)

    next(pieces)
    pieces.close()  # type: ignore[attr-defined]

    (tokens,) = written
    assert tokens < 2000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--model", "{folder}", "--data", "{data}/grey_test.jsonl"], "holds no weights"),
        (["predict", "--model", "{folder}", "What?"], "holds no weights"),
        (["predict", "--model", "tiny"], "give a question"),
        (["predict", "--model", "tiny", "--data", "{data}/grey_test.jsonl", "What?"], "give a question"),
        (["evaluate", "--model", "tiny", "--data", "{data}/grey_test.jsonl", "--metric", "anls"], "have no 'answers'"),
        (["evaluate", "--model", "tiny", "--data", "{data}/grey_test.jsonl", "--metric", "blue"], "blue is not known"),
        (["evaluate", "--model", "tiny", "--data", "{data}/open.jsonl"], "no record has an answer to score against"),
        (["evaluate", "--model", "tiny", "--data", "{data}/empty.jsonl"], "empty-file"),
    ],
)
def test_what_cannot_be_done_is_said(run: Run, data: Path, arguments: list[str], message: str) -> None:
    folder = data.parent / "model"
    folder.mkdir()
    (data / "open.jsonl").write_text((data / "grey_test.jsonl").read_text().splitlines()[-1] + "\n")
    (data / "empty.jsonl").touch()

    done = run("phi3v-model", *(own.format(folder=folder, data=data) for own in arguments))

    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_presets_are_listed(run: Run) -> None:
    done = run("phi3v-train", "--list_presets")

    assert done.returncode == 0
    assert "docvqa-lora-bf16     82.46" in done.stdout
    assert len(done.stdout.splitlines()) == 19


def settings(run: Run, data: Path, *arguments: Any) -> dict[str, Any]:
    fixed = ("--data_dir", data, "--output_dir", data.parent / "run", "--model_name_or_path", "tiny", "--overwrite")
    more = ("--num_crops", 1, "--max_steps", 1, "--num_workers", 0, "--save_steps", 0, "--eval_before", "none")
    done = run("phi3v-train", *fixed, *more, "--no_tqdm", "--eval_limit", 1, "--max_new_tokens", 1, *arguments)
    assert done.returncode == 0, done.stderr
    saved: dict[str, Any] = json.loads((data.parent / "run/train_config.json").read_text())
    return saved


def test_options_win_over_a_file_and_a_file_over_a_preset(run: Run, data: Path) -> None:
    file = data.parent / "run.yaml"
    file.write_text("preset: docvqa-frozen-bf16\nlearning_rate: 3.0e-4\nbatch_size: 2\n")

    saved = settings(run, data, "--config", file, "--batch_size", 4, "--fp32")

    assert (saved["preset"], saved["freeze_vision_model"]) == ("docvqa-frozen-bf16", True)
    assert (saved["batch_size"], saved["learning_rate"]) == (4, 3e-4)
    assert (saved["num_train_epochs"], saved["bf16"], saved["fp32"]) == (2, False, True)


def test_a_preset_that_does_not_exist_is_an_error(run: Run, data: Path) -> None:
    done = run("phi3v-train", "--preset", "docvqa-lora", "--data_dir", data)

    assert done.returncode == 2
    assert "no such preset: docvqa-lora\n  fix: did you mean docvqa-" in done.stderr
