"""A converter whose items fail on request, found by its entry point as a user's plug-in is; and small sources."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from phi3v.converters import Run, convert
from phi3v.converters.base import SPLITS
from phi3v.schema import Checker

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


@dataclass(frozen=True)
class Result:
    """What a conversion left.

    Attributes:
        records: by split, as JSON has them.
        rejected: reason and message of each.
        manifest: as JSON has it.
        folder: that it is in.
    """

    records: dict[str, list[dict[str, Any]]]
    rejected: list[tuple[str, str]]
    manifest: dict[str, Any]
    folder: Path

    def turns(self, split: str) -> list[tuple[str, str | None]]:
        """Question and answer of each turn of each record."""
        return [
            (turn["user"], turn.get("assistant")) for record in self.records[split] for turn in record["conversations"]
        ]


@pytest.fixture
def converted(tmp_path: Path) -> Callable[..., Result]:
    """Convert in this process; what is written passes the checks."""

    def run(name: str, options: Any, **how: Any) -> Result:
        folder = Path(tempfile.mkdtemp(dir=tmp_path)) / "out"
        for _ in convert(name, options, out_dir=folder, run=Run(**how)):
            pass
        files = {split: folder / f"{name}_{split}.jsonl" for split in SPLITS}
        records = {split: read_records(path) for split, path in files.items() if path.exists()}
        checker = Checker()
        assert [finding for path in files.values() if path.exists() for finding in checker.check(path)] == []
        rejected = read_records(folder / "rejected.jsonl") if (folder / "rejected.jsonl").exists() else []
        return Result(
            records,
            [(line["reason"], line["message"]) for line in rejected],
            json.loads((folder / "manifest.json").read_text()),
            folder,
        )

    return run


def read_records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def picture_bytes(number: int = 0, *, form: str = "PNG", size: tuple[int, int] = (12, 8)) -> bytes:
    """Return a picture whose colour is its number."""
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", size, (number % 256, 7 * number % 256, 99)).save(stream, form)
    return stream.getvalue()


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """Make a picture of its own for each number."""
    return picture_bytes


@pytest.fixture
def write_parquet() -> Callable[..., Path]:
    """Write rows with pyarrow, few a row group, so that readers meet more than one."""

    def write(path: Path, rows: list[dict[str, Any]]) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
        return path

    return write


@pytest.fixture
def write_lines() -> Callable[..., Path]:
    """Write JSON lines."""

    def write(path: Path, *rows: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write
