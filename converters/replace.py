"""Overwriting: the new conversion grows beside the earlier one, and takes its place when it is complete.

A run that fails costs nothing of what was there. A kill while the place is taken is made good by the next run, since
each step can be done again: the earlier files go, the new folder takes another name, its files move, the manifest last.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from phi3v.converters.finish import data_files
from phi3v.converters.journal import Journal, Rejected
from phi3v.converters.manifest import CARD, IMAGES, LOCK, MANIFEST, RUN, WORK, read_manifest, read_sums
from phi3v.schema import UserError

NEW = f"{WORK}-new"  # grows, until it holds a manifest
MOVING = f"{WORK}-moving"  # complete, the earlier conversion gone, its files on their way


def is_half_replaced(out_dir: Path) -> bool:
    """Tell whether a complete new conversion waits for its place."""
    return (out_dir / NEW / MANIFEST).exists() or (out_dir / MOVING).exists()


def replace_earlier(out_dir: Path) -> None:
    """Put the new conversion in the place of the earlier one, whatever state that is in; other files stay."""
    new, moving = out_dir / NEW, out_dir / MOVING
    if (new / MANIFEST).exists():
        _remove_earlier(out_dir, read_manifest(new)["settings"]["converter"])
        new.rename(moving)
    for path in _files(moving):
        target = out_dir / path.relative_to(moving)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    shutil.rmtree(moving)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder, its manifest last."""
    for path, _, names in os.walk(folder):
        yield from (Path(path) / name for name in names if Path(path, name) != folder / MANIFEST)
    if (folder / MANIFEST).exists():
        yield folder / MANIFEST


def _remove_earlier(out_dir: Path, source: str) -> None:
    names = {*data_files(source), CARD}
    with suppress(UserError):  # no manifest, or a damaged one
        names |= read_manifest(out_dir)["files"].keys()
    root = out_dir.resolve()
    for name in (*_earlier_images(out_dir), *(names - {IMAGES}), IMAGES, MANIFEST):  # last what names the others
        path = out_dir / name
        if path.parent.resolve().is_relative_to(root):  # a folder from elsewhere may name, or link to, anything
            path.unlink(missing_ok=True)
    for path in (out_dir / WORK).glob("*"):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def _earlier_images(out_dir: Path) -> Iterator[str]:
    if (out_dir / IMAGES).exists():
        yield from (name for name, _ in read_sums(out_dir / IMAGES))
    if (out_dir / WORK / RUN).exists():
        with closing(Journal(out_dir / WORK)) as journal:
            for entry in journal.entries():
                if not isinstance(entry, Rejected):
                    yield from (f"images/{image.name}" for image in entry.images)
