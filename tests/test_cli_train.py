"""`phi3v-train` as a user types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from phi3v.schema import Conversation, Turn

Run = Callable[..., Any]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(4):
        Image.new("L", (60, 60), 60 * number).save(folder / f"images/{number}.png")
        turn = Turn(user="How bright?", assistant=f"{number}", images=(f"{number}.png",))
        lines.append(Conversation(id=f"g-{number}", source="grey", turns=(turn,)).to_line())
    (folder / "grey_train.jsonl").write_text("".join(lines))
    return folder


def settings(data: Path, **changes: Any) -> dict[str, Any]:
    return {
        "data_dir": str(data),
        "output_dir": str(data.parent / "run"),
        "model_name_or_path": "tiny",
        "num_crops": 1,
        "batch_size": 2,
        "max_steps": 2,
        "num_workers": 0,
        "save_steps": 0,
        "tqdm": False,
        "lr_scheduler_type": "cosine",
        "lr_scheduler_kwargs": {"num_cycles": 1},
    } | changes


def test_a_settings_file_is_overridden_saved_and_runs_again_to_the_same(run: Run, data: Path) -> None:
    file = data.parent / "run.yaml"
    file.write_text(json.dumps(settings(data)).replace("{", "{\n"))

    first = run("phi3v-train", "--config", file, "--learning_rate", "1e-3", "--logging_steps", 1)
    saved = data.parent / "run/train_config.json"
    again = run("phi3v-train", "--config", saved, "--output_dir", data.parent / "again")

    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    kept = json.loads(saved.read_text())
    assert (kept["learning_rate"], kept["max_steps"], kept["tqdm"]) == (1e-3, 2, False)
    assert kept["lr_scheduler_type"] == "cosine"
    logs = [
        json.loads((data.parent / name / "trainer_state.json").read_text())["log_history"] for name in ("run", "again")
    ]
    assert [entry["loss"] for entry in logs[0][:2]] == [entry["loss"] for entry in logs[1][:2]]
    assert json.loads((data.parent / "again/train_config.json").read_text()) == kept | {
        "output_dir": f"{data.parent}/again"
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"learning_rat": 1}', "no such option: --learning_rat\n  fix: did you mean --learning_rate?"),
        ("- a\n- b\n", "holds no settings"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_settings_file_that_cannot_be_taken_is_an_error(run: Run, data: Path, content: str, message: str) -> None:
    file = data.parent / "run.yaml"
    file.write_text(content)

    done = run("phi3v-train", "--config", file, "--data_dir", data, "--model_name_or_path", "tiny")

    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_option_of_nobody_is_an_error_with_a_hint(run: Run, data: Path) -> None:
    done = run("phi3v-train", "--data_dir", data, "--model_name_or_path", "tiny", "--lr-schedular-type=cosine")

    assert done.returncode == 2
    assert "no such option: --lr_schedular_type\n  fix: did you mean --lr_scheduler_type?" in done.stderr


def test_show_prints_what_is_learned_and_trains_nothing(run: Run, data: Path) -> None:
    done = run("phi3v-train", "--data_dir", data, "--model_name_or_path", "tiny", "--num_crops", 1, "--show", 2)

    assert done.returncode == 0, done.stderr
    assert "--- g-0: " in done.stdout
    assert "[<|image_1|> x 313]" in done.stdout
    assert "[[0<|end|>" in done.stdout
    assert "<|endoftext|>]]" in done.stdout
    assert done.stdout.count("--- ") == 2
    assert not (data.parent / "run").exists()
