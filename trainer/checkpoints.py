"""Checkpoints that say themselves whether they are whole, and the request to stop at the next one."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from phi3v.schema import UserError
from phi3v.schema.jsonl import atomic_write

MARK = "phi3v_checkpoint.json"


def mark(folder: Path, step: int, failures: list[list[Any]]) -> None:
    """Say that a checkpoint is whole: the last file written to it, with the size of each other."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MARK)
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}
    with atomic_write(folder / MARK) as file:
        file.write((json.dumps({"step": step, "failures": failures, "files": files}, indent=1) + "\n").encode())


def whole(folder: Path) -> dict[str, Any] | None:
    """Return what the mark of a checkpoint says, or None if the checkpoint is not whole."""
    try:
        told: dict[str, Any] = json.loads((folder / MARK).read_bytes())
        sizes = {name: (folder / name).stat().st_size for name in told["files"]}
    except (OSError, ValueError, KeyError):
        return None
    return told if sizes == told["files"] else None


def checkpoints(output_dir: Path) -> list[Path]:
    """Return the whole checkpoints of a run, oldest first."""
    found = [(int(path.name.rpartition("-")[2]), path) for path in output_dir.glob("checkpoint-*") if whole(path)]
    return [path for _, path in sorted(found)]


def keep_newest(output_dir: Path, count: int | None, *, spare: int | None = None) -> None:
    """Delete all whole checkpoints but the newest and that of step `spare`.

    The mark goes first, so that none looks whole when it is not.
    """
    spared = output_dir / f"checkpoint-{spare}"
    for path in [path for path in checkpoints(output_dir)[: -count if count else 0] if path != spared]:
        (path / MARK).unlink()
        shutil.rmtree(path)


def find(output_dir: Path, resume: str | None) -> Path | None:
    """Return the checkpoint to go on from; None to start at the beginning.

    Args:
        output_dir: the run's.
        resume: `auto` for the newest whole one, a checkpoint's folder, or None.

    Raises:
        UserError: the folder named is no whole checkpoint.
    """
    if resume is None:
        return None
    if resume == "auto":
        return next(reversed(checkpoints(output_dir)), None)
    if not whole(Path(resume)):
        fix = "name another checkpoint-N, or --resume auto for the newest whole one"
        raise UserError("no whole checkpoint", where=resume, fix=fix)
    return Path(resume)


@contextmanager
def on_sigterm() -> Iterator[Callable[[], bool]]:
    """Yield a question: has the process been asked to end (SIGTERM) since the block began? It goes on until then."""
    asked = False

    def remember(_signal: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    before = signal.signal(signal.SIGTERM, remember)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGTERM, before)
