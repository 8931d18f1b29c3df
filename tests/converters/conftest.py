"""A converter whose items fail on request, found by its entry point as a user's plug-in is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FAULTS = Path(__file__).parents[2] / "fixtures" / "faults"


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the converter `faults`, which this process and its workers find."""
    monkeypatch.syspath_prepend(FAULTS)
    import phi3v_faults

    return phi3v_faults


@pytest.fixture
def faults_environment() -> dict[str, str]:
    """An environment in which our commands find the converter `faults`."""
    return {**os.environ, "PYTHONPATH": str(FAULTS)}


@pytest.fixture
def write_texts(tmp_path: Path) -> Callable[..., Path]:
    """Write a source of the converter `faults`: file stem -> text."""

    def write(**texts: str) -> Path:
        (tmp_path / "src").mkdir(exist_ok=True)
        for stem, text in texts.items():
            (tmp_path / "src" / f"{stem}.txt").write_text(text)
        return tmp_path / "src"

    return write


def tree_of(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder by its name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def tree() -> Callable[[Path], dict[str, bytes]]:
    """Read a whole folder."""
    return tree_of
