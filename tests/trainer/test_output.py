from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phi3v.schema import UserError
from phi3v.trainer.checkpoints import mark
from phi3v.trainer.config import FILE_NAME, TrainConfig
from phi3v.trainer.output import FREE, make_folder, require_same_data, starting_point, write_metrics

DIGESTS = {"a_train.jsonl": "01", "a_val.jsonl": "02", "samples": "03"}


def config(folder: Path, **options: Any) -> TrainConfig:
    return TrainConfig(data_dir=folder / "data", output_dir=folder / "run", model_name_or_path="tiny", **options)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder that a killed run left: a whole checkpoint and half of one, the score before, and a user's note."""
    config(tmp_path).output_dir.mkdir()
    make_folder(config(tmp_path), DIGESTS)
    run = tmp_path / "run"
    for step in (5, 10):
        (run / f"checkpoint-{step}").mkdir()
        (run / f"checkpoint-{step}/model.safetensors").write_bytes(b"weights")
    mark(run / "checkpoint-5", 5, [])
    (run / "eval_before.json").write_text("{}")
    (run / "adapter_model.safetensors").write_text("stale")
    (run / "notes.txt").write_text("mine")
    return run


def names(run: Path) -> set[str]:
    return {path.name for path in run.iterdir()}


def test_a_run_that_goes_on_keeps_what_is_whole(run: Path) -> None:
    settings = config(run.parent, resume="auto")

    assert starting_point(settings) == run / "checkpoint-5"
    make_folder(settings, DIGESTS)

    assert names(run) == {
        *("adapter_model.safetensors", "checkpoint-5", "data.json", "environment.json"),
        *("eval_before.json", "notes.txt", FILE_NAME),
    }


def test_a_run_that_starts_anew_leaves_only_what_is_not_a_runs(run: Path) -> None:
    settings = config(run.parent, overwrite=True)

    assert starting_point(settings) is None
    make_folder(settings, DIGESTS)

    assert names(run) == {"data.json", "environment.json", "notes.txt", FILE_NAME}


def test_to_resume_where_nothing_is_starts_anew(tmp_path: Path) -> None:
    settings = config(tmp_path, resume="auto")
    settings.output_dir.mkdir()
    (settings.output_dir / "eval_before.json").write_text("{}")

    assert starting_point(settings) is None
    make_folder(settings, DIGESTS)

    assert "eval_before.json" not in names(settings.output_dir)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 7}, "--seed was 42 and is 7"),
        ({"use_lora": True}, "--use_lora was False and is True"),
        ({"more": {"optim": "adafactor"}}, "--optim was None and is adafactor"),
        ({"max_tokens_per_gpu": 900}, "--max_tokens_per_gpu was None and is 900"),
    ],
)
def test_settings_that_change_the_run_are_named(run: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match="this run has other settings") as caught:
        starting_point(config(run.parent, resume="auto", **changes))

    assert told in str(caught.value)


def test_adapters_stay_on_their_base_and_whole_models_may_move(tmp_path: Path) -> None:
    for adapters in (True, False):
        settings = {"output_dir": tmp_path / f"run{adapters}", "data_dir": tmp_path, "use_lora": adapters}
        make_folder(TrainConfig(model_name_or_path="a", **settings), DIGESTS)
        moved = TrainConfig(model_name_or_path="b", resume="auto", **settings)
        if adapters:
            with pytest.raises(UserError, match="--model_name_or_path was a and is b"):
                starting_point(moved)
        else:
            assert starting_point(moved) is None


def test_a_checkpoint_named_without_its_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run: holds no run to go on with"):
        starting_point(config(tmp_path, resume=str(tmp_path / "elsewhere/checkpoint-5")))


def test_settings_that_change_nothing_may_change(run: Path) -> None:
    changes: dict[str, Any] = {"num_workers": 0, "logging_steps": 1, "save_steps": 3, "save_total_limit": 9}
    changes |= {"eval_batch_size": 1, "tqdm": False, "more": {"report_to": "tensorboard", "run_name": "x"}}

    assert starting_point(config(run.parent, resume="auto", **changes)) == run / "checkpoint-5"
    assert {*changes, "report_to", "run_name"} - {"more"} <= FREE


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"a_train.jsonl": "11"}, "a_train.jsonl"),
        ({"a_train.jsonl": "11", "samples": "13"}, "a_train.jsonl"),
        ({"b_train.jsonl": "04"}, "b_train.jsonl"),
        ({"samples": "13"}, "the sizes of pictures"),
    ],
)
def test_other_data_than_before_are_told(run: Path, changes: dict[str, str], told: str) -> None:
    require_same_data(run, DIGESTS)

    with pytest.raises(UserError, match=f"the data have changed since this run began: {told}\n"):
        require_same_data(run, DIGESTS | changes)


def test_the_metrics_hold_both_scores(run: Path) -> None:
    (run / "eval_before.json").write_text('{"accuracy": 0.25, "answers_unique": []}')
    (run / "eval_after.json").write_text('{"accuracy": 0.75, "answers_unique": []}')

    write_metrics(run, {"train_loss": 0.5})

    expected = {"train_loss": 0.5, "accuracy_before": 0.25, "accuracy_after": 0.75}
    assert json.loads((run / "metrics.json").read_text()) == expected


def test_the_environment_is_written_down(run: Path) -> None:
    import torch

    told = json.loads((run / "environment.json").read_text())

    assert told["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert told["packages"]["phi3v"]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")

    with pytest.raises(UserError, match="run: cannot write here"):
        make_folder(config(tmp_path), DIGESTS)
