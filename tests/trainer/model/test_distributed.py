"""Two processes, one with an image and one without, train as one process does on both samples."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("distributed_steps.py")
PROOF = {
    "ddp": "DistributedDataParallel",
    "fsdp2": "DTensor",
    "zero2": "DeepSpeedEngine 2",
    "zero3": "DeepSpeedEngine 3",
}


def result(output: str) -> dict[str, Any]:
    (line,) = [line for line in output.splitlines() if line.startswith("RESULT ")]
    values: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return values


@cache
def alone() -> dict[str, Any]:
    done = subprocess.run([sys.executable, SCRIPT, "single"], capture_output=True, text=True, check=True)
    return result(done.stdout)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", PROOF)
def test_a_rank_with_images_beside_one_without(strategy: str, tmp_path: Path) -> None:
    if strategy.startswith("zero"):
        if find_spec("deepspeed") is None:
            pytest.skip("deepspeed is not installed: ZeRO is not shown")
        if shutil.which("c++") is None or " " in sys.prefix:
            pytest.skip("deepspeed compiles on a CPU, with c++ and without a space in its path: ZeRO is not shown")
    port = str(free_port())
    processes = []
    for rank in (0, 1):
        environment = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "DS_ACCELERATOR": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
        }
        log = (tmp_path / f"{rank}.log").open("w+")
        command = [sys.executable, str(SCRIPT), strategy]
        processes.append((subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment), log))

    outputs = []
    try:
        for process, log in processes:
            process.wait(timeout=240)  # a rank that waits for the other for ever is what this is about
            log.seek(0)
            outputs.append(log.read())
    finally:
        for process, log in processes:
            process.kill()
            process.wait()
            log.close()

    assert [process.returncode for process, _ in processes] == [0, 0], "\n".join(outputs)[-3000:]
    made = result(outputs[0])
    assert made["proof"] == PROOF[strategy]
    assert made["losses"] == pytest.approx(alone()["losses"], abs=1e-5)
    assert alone()["losses"][-1] < alone()["losses"][0]
