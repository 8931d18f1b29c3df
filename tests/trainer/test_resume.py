"""A run that is killed and goes on is the run that was never killed: loss by loss, to the bit."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phi3v.schema import UserError
from phi3v.trainer.checkpoints import MARK, checkpoints, find, keep_newest, mark, whole

STEPS = 8
STRATEGIES: dict[str, list[str]] = {
    "full": [],
    "lora": ["--use_lora", "--lora_rank", "4", "--lora_dropout", "0.1"],
    "packed": ["--max_tokens_per_gpu", "1500"],
}
ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def data(grey_levels: Callable[[int], Path]) -> Path:
    """14 samples: two epochs of them are 8 steps, of 4 samples and twice of 2."""
    return grey_levels(14)


def command(data: Path, out: Path, *more: str) -> list[str]:
    fixed = f"--model_name_or_path tiny --num_crops 1 --batch_size 4 --max_steps {STEPS} --learning_rate 1e-3"
    fixed += " --logging_steps 1 --save_steps 1 --save_total_limit 3 --num_workers 1 --no_tqdm"
    start = [str(Path(sys.executable).parent / "phi3v-train"), "--data_dir", str(data), "--output_dir", str(out)]
    return [*start, *fixed.split(), *more]


def history(out: Path) -> list[tuple[int, float, float]]:
    log = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [(entry["step"], entry["loss"], entry["grad_norm"]) for entry in log if "loss" in entry]


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    while process.poll() is None and not condition():
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["full", pytest.param("lora", marks=pytest.mark.product), "packed"])
def test_killed_at_random_and_resumed_the_losses_are_equal_to_the_bit(
    strategy: str, data: Path, tmp_path: Path
) -> None:
    options = STRATEGIES[strategy]
    subprocess.run(command(data, tmp_path / "whole", *options), check=True, capture_output=True, env=ALONE)
    chance = random.Random(strategy)

    for kill_after in (chance.randint(1, 3), chance.randint(4, STEPS - 2)):
        for _ in range(5):
            process = subprocess.Popen(
                command(data, tmp_path / "cut", *options, "--resume", "auto"),
                env=ALONE,
                text=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            mark_of = tmp_path / f"cut/checkpoint-{kill_after}" / MARK
            wait_for(mark_of.exists, process)
            time.sleep(chance.random() / 4)  # anywhere in a step, a checkpoint or its clearing away
            process.kill()
            process.wait()
            if not (tmp_path / "cut/trainer_state.json").exists():
                break
            shutil.rmtree(tmp_path / "cut")  # it had come to its end
        else:
            pytest.fail("five runs ended before they were killed")
    done = subprocess.run(
        command(data, tmp_path / "cut", *options, "--resume", "auto"),
        env=ALONE,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "goes on from" in done.stderr
    assert history(tmp_path / "cut") == history(tmp_path / "whole")
    assert len(history(tmp_path / "cut")) == STEPS
    assert (tmp_path / "cut/samples.jsonl").read_bytes() == (tmp_path / "whole/samples.jsonl").read_bytes()


@pytest.mark.slow
def test_sigterm_saves_and_the_run_goes_on(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        command(data, out, "--save_steps", "1000"), env=ALONE, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "'loss'" in line:  # it is training
            break
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate()

    assert process.returncode == 143
    assert "stopped as asked, saved" in told
    (saved,) = checkpoints(out)
    ledger = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert sum(entry["trained"] for entry in ledger) == sum([4, 4, 4, 2, 4, 4, 4, 2][: whole(saved)["step"]])
    assert not (out / "model.safetensors").exists()

    subprocess.run(command(data, out, "--resume", "auto"), check=True, capture_output=True, env=ALONE)
    assert [step for step, _, _ in history(out)] == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_a_finished_run_that_is_resumed_changes_nothing(data: Path, tmp_path: Path) -> None:
    kept = []
    for _ in range(2):
        subprocess.run(command(data, tmp_path / "run", "--resume", "auto"), check=True, capture_output=True, env=ALONE)
        kept.append([(tmp_path / "run" / name).read_bytes() for name in ("model.safetensors", "samples.jsonl")])

    assert kept[0] == kept[1]
    assert len(history(tmp_path / "run")) == STEPS


@pytest.mark.slow
def test_skipped_samples_are_not_read_on_resume(data: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    subprocess.run(command(data, tmp_path / "run"), check=True, capture_output=True, env=ALONE)
    before = history(tmp_path / "run")
    (tmp_path / "run/trainer_state.json").unlink()
    # Of the last step's samples, all that the run has left to read.
    from phi3v.trainer.packing import Sizes
    from phi3v.trainer.steps import Batching, Steps

    left = Steps(range(14), Sizes([1] * 14, [0] * 14), Batching(size=4), max_steps=STEPS, seed=42).samples(STEPS - 1)
    for number in set(range(14)) - set(left):
        damage(data / f"images/{number}.png")
    resumed = command(data, tmp_path / "run", "--resume", str(tmp_path / f"run/checkpoint-{STEPS - 1}"))
    subprocess.run(resumed, check=True, capture_output=True, env=ALONE)

    assert history(tmp_path / "run") == before
    (records,) = data.glob("*_train.jsonl")
    records.write_text("".join(reversed(records.read_text().splitlines(keepends=True))))
    refused = subprocess.run(resumed, check=False, capture_output=True, text=True, env=ALONE)
    assert refused.returncode == 2
    assert "the data have changed since this run began: " in refused.stderr


def checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def test_a_checkpoint_without_its_mark_or_with_other_files_is_not_whole(tmp_path: Path) -> None:
    for step in (9, 10, 11):
        mark(checkpoint(tmp_path, step), step, [])
    checkpoint(tmp_path, 12)
    (tmp_path / "checkpoint-11/model.safetensors").write_bytes(b"weig")

    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]
    assert find(tmp_path, "auto") == tmp_path / "checkpoint-10"
    assert find(tmp_path, str(tmp_path / "checkpoint-9")) == tmp_path / "checkpoint-9"
    assert find(tmp_path, None) is None
    with pytest.raises(UserError, match="checkpoint-11: no whole checkpoint"):
        find(tmp_path, str(tmp_path / "checkpoint-11"))


def test_the_mark_holds_files_of_folders_too(tmp_path: Path) -> None:
    """DeepSpeed saves its optimizer below global_stepN/."""
    path = checkpoint(tmp_path, 5)
    (path / "global_step5").mkdir()
    (path / "global_step5/optim.pt").write_bytes(b"moments")
    mark(path, 5, [[1, 2, "gone"]])
    told = whole(path)

    assert told is not None
    assert told["files"] == {"global_step5/optim.pt": 7, "model.safetensors": 7}
    assert told["failures"] == [[1, 2, "gone"]]
    (path / "global_step5/optim.pt").write_bytes(b"mom")
    assert whole(path) is None


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"files": {"gone.pt": 3}}'])
def test_a_damaged_mark_is_none(tmp_path: Path, content: bytes) -> None:
    (checkpoint(tmp_path, 5) / MARK).write_bytes(content)

    assert checkpoints(tmp_path) == []


@pytest.mark.parametrize(("count", "left"), [(None, [8, 9, 10]), (2, [9, 10]), (1, [10]), (5, [8, 9, 10])])
def test_only_whole_checkpoints_count_for_the_limit(tmp_path: Path, count: int | None, left: list[int]) -> None:
    for step in (8, 9, 10):
        mark(checkpoint(tmp_path, step), step, [])
    checkpoint(tmp_path, 11)

    keep_newest(tmp_path, count)

    assert checkpoints(tmp_path) == [tmp_path / f"checkpoint-{step}" for step in left]
    assert (tmp_path / "checkpoint-11").exists()


def test_without_any_checkpoint_auto_starts_at_the_beginning(tmp_path: Path) -> None:
    assert find(tmp_path, "auto") is None
