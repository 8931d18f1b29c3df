"""Two processes train as one does, by every way to divide a run; they resume, and end when one of them dies."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from phi3v.schema import Conversation, Turn
from phi3v.trainer.checkpoints import MARK
from phi3v.trainer.load import load_model

SCRIPT = Path(__file__).with_name("observed_run.py")
STEPS = 10
STRATEGIES = {
    "ddp": ["--deepspeed", "none"],
    "zero2": ["--deepspeed", "zero2"],
    "zero2, optimizer on the CPU": ["--deepspeed", "zero2", "--offload_optimizer"],
    "zero3": ["--deepspeed", "zero3"],
    "fsdp2": ["--fsdp"],
}
PROOF = {
    "ddp": "DistributedDataParallel",
    "zero2": "DeepSpeedEngine 2",
    "zero2, optimizer on the CPU": "DeepSpeedEngine 2 offloaded",
    "zero3": "DeepSpeedEngine 3",
    "fsdp2": "DTensor",
}
WEIGHTS = {"full": [], "lora": ["--use_lora", "--lora_rank", "4"]}
DIVISIONS = {"one at once": [], "packed": ["--max_tokens_per_gpu", "1500"]}
COVERED = {("ddp", "full", "packed"), ("zero2", "full", "one at once"), ("zero3", "lora", "packed")}
COVERED |= {("fsdp2", "full", "one at once")}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """31 records to train on, a third of them without a picture, one with a long answer; and 3 to score on.

    In batches of 8 the last step of an epoch leaves a process without a sample; the long answer's loss takes two
    chunks where the other process's takes one.
    """
    folder = tmp_path_factory.mktemp("processes") / "data"
    (folder / "images").mkdir(parents=True)
    chance = random.Random(1)
    for split, count in (("train", 31), ("val", 3)):
        lines = []
        for number in range(count):
            names = tuple(f"{split}-{number}-{own}.png" for own in range(number % 3))
            for name in names:
                Image.new("RGB", (60, 50), (chance.randrange(256), 80, 99)).save(folder / "images" / name)
            answer = chance.choice(["red", "a bluish green", "none of them"])
            answer = "red " * 350 + answer if (split, number) == ("train", 7) else answer
            turn = Turn(user="Which colour?" + " Say it." * chance.randrange(6), images=names, assistant=answer)
            lines.append(Conversation(id=f"{split}-{number}", source="s", turns=(turn,)).to_line())
        (folder / f"s_{split}.jsonl").write_text("".join(lines))
    return folder


def command(data: Path, out: Path, processes: int, *more: str) -> list[str]:
    start = [sys.executable, str(SCRIPT)]
    if processes > 1:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        start = [*torchrun, "--nproc_per_node", str(processes), str(SCRIPT)]
    fixed = f"--model_name_or_path tiny --num_crops 1 --batch_size 8 --max_steps {STEPS} --learning_rate 1e-3"
    fixed += " --logging_steps 1 --num_workers 0 --max_new_tokens 3 --no_tqdm --eval_before none"
    return [*start, "--data_dir", str(data), "--output_dir", str(out), *fixed.split(), *more]


def run(*arguments: Any) -> str:
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, timeout=400, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def history(out: Path) -> list[tuple[float, float]]:
    """Return the loss and the norm of the gradients of each step."""
    log = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [(entry["loss"], entry["grad_norm"]) for entry in log if "loss" in entry]


@pytest.fixture(scope="module")
def alone(data: Path) -> Callable[..., Path]:
    """Give the folder of one process's run."""

    @cache
    def trained(*options: str) -> Path:
        out = data.parent / f"alone-{len(list(data.parent.iterdir()))}"
        run(data, out, 1, "--save_steps", "0", *options)
        return out

    return trained


def needs_engine(strategy: str) -> None:
    if not strategy.startswith("zero"):
        return
    if find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed: ZeRO is not shown")
    if shutil.which("c++") is None or " " in sys.prefix:
        pytest.skip("deepspeed compiles on a CPU, with c++ and without a space in its path: ZeRO is not shown")


def cases() -> list[Any]:
    return [
        pytest.param(*case, marks=[] if case in COVERED else pytest.mark.product)
        for case in product(STRATEGIES, WEIGHTS, DIVISIONS)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "weights", "division"), cases())
def test_two_processes_train_as_one_does(
    strategy: str,
    weights: str,
    division: str,
    data: Path,
    tmp_path: Path,
    alone: Callable[..., Path],
) -> None:
    """With accumulation, clipping, and a process that sees pictures beside one that sees none."""
    needs_engine(strategy)
    options = [*WEIGHTS[weights], *DIVISIONS[division]]

    output = run(data, tmp_path / "run", 2, "--save_steps", "0", *STRATEGIES[strategy], *options)

    told = [json.loads(found) for found in re.findall(r"OBSERVED (\{.*?\})", output)]  # lines of two may run together
    assert len(told) == 2 * STEPS
    assert all(PROOF[strategy] in own["proof"] for own in told)
    assert any(len(own["images"]) > 1 for own in told), "gradients are accumulated"
    first, second = ([own["images"] for own in told if own["rank"] == rank] for rank in (0, 1))
    pairs = [pair for one, other in zip(first, second, strict=True) for pair in zip(one, other, strict=True)]
    if division == "one at once":
        assert any(one != other for one, other in pairs), "a process with pictures beside one without"
    expected = history(alone(*options))
    assert max(norm for _, norm in expected) > 1, "gradients are clipped"
    assert [own[0] for own in history(tmp_path / "run")] == pytest.approx([own[0] for own in expected], abs=1e-5)
    assert [own[1] for own in history(tmp_path / "run")] == pytest.approx([own[1] for own in expected], rel=1e-4)
    ids = torch.arange(5, 45)[None]
    saved, other = (
        load_model(str(folder)).eval()(input_ids=ids).logits for folder in (tmp_path / "run", alone(*options))
    )
    torch.testing.assert_close(saved, other, rtol=0, atol=1e-3)
    predicted = [json.loads(line) for line in (tmp_path / "run/predictions_after.jsonl").read_text().splitlines()]
    assert [own["id"] for own in predicted] == ["val-0", "val-1", "val-2"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "processes"),
    [
        pytest.param("ddp", 1),
        pytest.param("fsdp2", 2),
        pytest.param("zero2", 2, marks=pytest.mark.product),
        pytest.param("zero3", 2),
        pytest.param("ddp", 2, marks=pytest.mark.product),
        pytest.param("fsdp2", 1, marks=pytest.mark.product),
    ],
)
def test_killed_on_two_processes_and_resumed_the_losses_are_those_of_a_whole_run(
    strategy: str, processes: int, data: Path, tmp_path: Path, alone: Callable[..., Path]
) -> None:
    needs_engine(strategy)
    options = ["--save_steps", "2", *STRATEGIES[strategy]]
    with (tmp_path / "log").open("w") as log:
        started = subprocess.Popen(
            command(data, tmp_path / "run", 2, *options),
            stdout=log,
            stderr=log,
            env=ENVIRONMENT,
            start_new_session=True,
        )
        wait_for((tmp_path / "run/checkpoint-4" / MARK).exists, started)
        for process in (started.pid, *children(started.pid)):  # torchrun's processes outlive it
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        started.wait()
    assert not (tmp_path / "run/trainer_state.json").exists()

    run(data, tmp_path / "run", processes, *options, "--resume", "auto")

    expected = history(alone())
    assert [own[0] for own in history(tmp_path / "run")] == pytest.approx([own[0] for own in expected], abs=1e-5)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    until = time.monotonic() + 300
    while process.poll() is None and not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.slow
def test_deepspeeds_checkpoint_is_refused_on_another_number_of_processes(data: Path, tmp_path: Path) -> None:
    needs_engine("zero2")
    options = ["--save_steps", "5", "--deepspeed", "zero2"]
    run(data, tmp_path / "run", 2, *options)

    for more, message in (
        ([], r"saved by 2 processes with DeepSpeed, and this run has 1\n  fix: start 2 processes \(--nproc 2\)"),
    ):
        arguments = command(data, tmp_path / "run", 1, *options, "--resume", "auto", *more)
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=200, env=ENVIRONMENT)
        assert done.returncode == 2, done.stderr
        assert re.search(message, done.stderr)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_with_an_error_and_no_hang(data: Path, tmp_path: Path) -> None:
    arguments = command(data, tmp_path / "run", 1, "--nproc", "2", "--save_steps", "2")
    started = subprocess.Popen(
        [str(Path(sys.executable).parent / "phi3v-train"), *arguments[2:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
    )
    wait_for((tmp_path / "run/checkpoint-2" / MARK).exists, started)
    victim = next(own for own in children(started.pid) if environment(own).get("RANK") == "1")
    os.kill(victim, signal.SIGKILL)

    output, _ = started.communicate(timeout=120)

    assert started.returncode == 1, output[-3000:]
    assert "another process is gone" in output or "exitcode: -9" in output


@pytest.mark.slow
def test_torchrun_starts_again_and_the_run_goes_on(data: Path, tmp_path: Path, alone: Callable[..., Path]) -> None:
    arguments = command(data, tmp_path / "run", 2, "--save_steps", "2", "--resume", "auto")
    arguments[arguments.index("--standalone")] = "--max-restarts=1"
    with (tmp_path / "log").open("w") as log:
        started = subprocess.Popen(
            [*arguments[:4], "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", *arguments[4:]],
            stdout=log,
            stderr=log,
            env=ENVIRONMENT,
        )
        wait_for((tmp_path / "run/checkpoint-4" / MARK).exists, started)
        victim = next(own for own in children(started.pid) if environment(own).get("RANK") == "1")
        os.kill(victim, signal.SIGKILL)
        code = started.wait(timeout=300)

    told = (tmp_path / "log").read_text()
    assert code == 0, told[-3000:]
    assert re.search(r"goes on from \S+checkpoint-[46]", told)
    assert [own[0] for own in history(tmp_path / "run")] == pytest.approx(
        [own[0] for own in history(alone())], abs=1e-5
    )


@pytest.mark.slow
def test_processes_that_find_different_runs_are_refused(data: Path, tmp_path: Path) -> None:
    """As on two nodes whose folders are not on a shared disk."""
    other = tmp_path / "data"
    shutil.copytree(data, other)
    lines = (other / "s_train.jsonl").read_text().splitlines(keepends=True)
    (other / "s_train.jsonl").write_text("".join(lines[1:]))
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = str(found.getsockname()[1])
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}

    both = [
        subprocess.Popen(
            command(folder, tmp_path / "run", 1),
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT | meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank, folder in enumerate((data, other))
    ]

    for process in both:
        _, stderr = process.communicate(timeout=200)
        assert process.returncode == 2, stderr
        assert re.search(
            r"process 1 has found \w+ as s_train\.jsonl, and the first process \w+\n  fix: .*all nodes share", stderr
        )
    assert not list((tmp_path / "run").iterdir())


def children(process: int) -> list[int]:
    """Return the processes that a process has started, theirs among them."""
    try:
        found = [int(own) for own in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except FileNotFoundError:  # it has ended
        return []
    return found + [inner for own in found for inner in children(own)]


def environment(process: int) -> dict[str, str]:
    pairs = Path(f"/proc/{process}/environ").read_text().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)
