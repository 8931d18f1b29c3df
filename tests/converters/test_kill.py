"""Runs killed with SIGKILL at random moments, workers included, until one comes through: the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

KILLS = 30
TEXTS = {f"{split}_{number:03}": f"slow {number % 5 / 250}" for number in range(100) for split in ("test", "train")}


def start(source: Path, out: Path, environment: dict[str, str], *more: str) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).parent / "phi3v-data"), "convert", "faults", "--src_dir", str(source)]
    command += ["--out_dir", str(out), "--jobs", "2", *more]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def ended(process: subprocess.Popen[str]) -> str:
    """Wait for a run that must come through, and return what it said."""
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    return stderr


def size_of(path: Path) -> int:
    """The bytes of a file that a run which comes to its end removes at any moment."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def wait_for_bytes(process: subprocess.Popen[str], path: Path, size: int) -> None:
    """Wait until a file has more than so many bytes, or the process has ended."""
    while process.poll() is None and size_of(path) <= size:
        time.sleep(0.002)


@pytest.mark.slow
def test_thirty_kills_change_no_byte(
    write_texts: Callable[..., Path],
    tmp_path: Path,
    tree: Callable[[Path], dict[str, bytes]],
    faults_environment: dict[str, str],
) -> None:
    """Half of them hit the whole process group, half the parent alone, whose workers must then end by themselves.

    The moment is drawn in bytes of the journal rather than in seconds, so that a slow machine is killed at work, too.
    """
    source = write_texts(**TEXTS)
    ended(start(source, tmp_path / "clean", faults_environment))
    chance = random.Random(4)
    kills = grown = rounds = 0

    while kills < KILLS:
        rounds += 1
        out = tmp_path / f"out{rounds}"
        journal = out / ".convert" / "journal"
        while kills < KILLS:
            before = size_of(journal)
            process = start(source, out, faults_environment)
            if kills % 5:  # else before, or while, it takes up its work
                wait_for_bytes(process, journal, before + chance.randrange(16_000))
            time.sleep(chance.uniform(0, 0.02 if kills % 5 else 1))
            if process.poll() is not None:
                break
            kills += 1
            (os.killpg if kills % 2 else os.kill)(process.pid, signal.SIGKILL)
            process.communicate()
            grown += size_of(journal) > before
        ended(process if process.returncode == 0 else start(source, out, faults_environment))
        assert tree(out) == tree(tmp_path / "clean")

    assert rounds > 1
    assert grown > KILLS / 2  # most of them hit work under way


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_asked_to_end_goes_on_later(
    number: int,
    write_texts: Callable[..., Path],
    tmp_path: Path,
    tree: Callable[[Path], dict[str, bytes]],
    faults_environment: dict[str, str],
) -> None:
    source = write_texts(**dict(list(TEXTS.items())[:60]), train_999="slow 1")
    out = tmp_path / "out"

    with start(source, out, faults_environment) as process:
        while not (out / "images").exists():
            time.sleep(0.01)
        process.send_signal(number)
        _, stderr = process.communicate()

    assert process.returncode in {130, -signal.SIGTERM}
    assert "Traceback" not in stderr
    assert "going on after" in ended(start(source, out, faults_environment))
    ended(start(source, tmp_path / "clean", faults_environment))
    assert tree(out) == tree(tmp_path / "clean")


@pytest.mark.parametrize("pause", [0.0, 0.1, 0.3, 0.6])
def test_an_interrupt_while_workers_start_brings_no_traceback(
    pause: float, write_texts: Callable[..., Path], tmp_path: Path, faults_environment: dict[str, str]
) -> None:
    """From a terminal it reaches them, too, in the middle of their imports."""
    with start(write_texts(**TEXTS), tmp_path / "out", faults_environment) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while len(children.read_text().split()) < 2:
            time.sleep(0.01)
        time.sleep(pause)
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate()

    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "interrupted"
    assert "Traceback" not in stderr


def test_workers_end_with_a_parent_that_is_killed(
    write_texts: Callable[..., Path], tmp_path: Path, faults_environment: dict[str, str]
) -> None:
    source = write_texts(train_a="ok", train_b="hang", train_c="hang", train_d="ok")
    log = tmp_path / "log"
    process = start(source, tmp_path / "out", {**faults_environment, "PHI3V_FAULTS_LOG": str(log)})
    while not log.exists() or not log.read_text().endswith("\n"):
        time.sleep(0.02)
    time.sleep(0.5)  # both workers hang by now
    group = os.getpgid(process.pid)

    process.kill()
    process.communicate()

    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    pytest.fail("workers outlive their parent")


@pytest.mark.slow
def test_a_disk_that_is_full_is_told_and_gone_on_from(
    write_texts: Callable[..., Path],
    tmp_path: Path,
    tree: Callable[[Path], dict[str, bytes]],
    faults_environment: dict[str, str],
) -> None:
    """A real one: a file system of 2 MB, mounted in a name space of its own."""
    probe = subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True, check=False
    )
    if probe.returncode:
        pytest.skip(
            f"this machine mounts no tmpfs without privileges ({probe.stderr.strip()}); nor is a full disk shown"
        )
    source = write_texts(**{f"train_{number:03}": "x" * 200 for number in range(60)})
    phi3v = Path(sys.executable).parent / "phi3v-data"
    command = f"'{phi3v}' convert faults --src_dir '{source}' --out_dir /mnt/out --jobs 2"
    script = f"""
mount -t tmpfs -o size=2m none /mnt
{command}; echo "code $?"
mount -o remount,size=50m /mnt
{command}; echo "code $?"
cp -r /mnt/out '{tmp_path}/out'
"""

    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", script], capture_output=True, text=True, check=False, env=faults_environment
    )

    assert "code 2" in done.stdout
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert "code 0" in done.stdout, done.stderr
    assert "going on after" in done.stderr
    ended(start(source, tmp_path / "clean", faults_environment))
    assert tree(tmp_path / "out") == tree(tmp_path / "clean")
