"""What `make` says where something is missing; its real work is shown by running it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "a folder with spaces"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "TORCH"}}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_a_missing_python_is_named(checkout: Path) -> None:
    done = make(checkout, "demo", "PYTHON=no-such-python")

    assert done.returncode == 2
    assert "error: no-such-python is not installed. Install Python 3.11 or newer" in done.stderr


def test_an_old_python_is_named(checkout: Path, tmp_path: Path) -> None:
    old = script(tmp_path / "old python", 'case "$1" in --version) echo Python 3.9.2 ;; *) exit 1 ;; esac')

    done = make(checkout, "test", f"PYTHON={old}")

    assert done.returncode == 2
    assert "error: Python 3.9.2 is too old. Install Python 3.11 or newer" in done.stderr


def test_a_missing_venv_is_named(checkout: Path, tmp_path: Path) -> None:
    bare = script(tmp_path / "bare", 'case "$2" in *ensurepip*) exit 1 ;; *) exit 0 ;; esac')

    done = make(checkout, "demo", f"PYTHON={bare}")

    assert done.returncode == 2
    assert "cannot make a virtual environment. Install its venv module" in done.stderr


def test_an_old_make_is_named(checkout: Path) -> None:
    done = make(checkout, "demo", "MAKE_VERSION=3.79")

    assert done.returncode == 2
    assert 'GNU make 3.81 or newer is needed, this is "3.79"' in done.stderr


def test_the_first_run_installs_and_the_second_does_not(checkout: Path, tmp_path: Path) -> None:
    """With a Python that writes down what it is asked to do."""
    log = tmp_path / "log"
    script(
        tmp_path / "python",
        f"""echo "$@" >> "{log}"
case "$1$2" in -mvenv) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;; esac""",
    )

    first = make(checkout, "demo", f"PYTHON={tmp_path}/python", "TORCH=torch>=9.9")
    calls = log.read_text()
    log.unlink()
    second = make(checkout, "demo", f"PYTHON={tmp_path}/python")
    again = log.read_text()
    make(checkout, "demo", f"PYTHON={tmp_path}/python", "TORCH=torch==9.8")

    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert calls.count("pip install") == 2
    assert calls.index("torch>=9.9") < calls.index("-e .[convert,train]") < calls.index("fixtures/demo.py")
    assert again == "fixtures/demo.py\n"
    assert "torch==9.8" in log.read_text()
    assert not (checkout / "=9.9").exists()  # what a shell makes of an unquoted >=
