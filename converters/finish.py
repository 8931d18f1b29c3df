"""The last files of a conversion, from its journal: JSONL, ledger of failures, checksums, card, and the manifest."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import orjson

from phi3v.converters.base import SPLITS, record_id
from phi3v.converters.card import card_text
from phi3v.converters.journal import Entry, Rejected, Stored
from phi3v.converters.manifest import CARD, IMAGES, REJECTED, SOURCES, sum_line, write_manifest
from phi3v.schema.jsonl import atomic_write

Remarks = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def write_last_files(
    out_dir: Path, settings: Mapping[str, Any], entries: Iterable[Entry], about: str, remarks: Remarks
) -> None:
    """Write everything but the images; each file appears whole, and the manifest last.

    Args:
        out_dir: the converted folder.
        settings: what decides the bytes, from `manifest.settings_of`.
        entries: what became of each item, in the order of the plan.
        about: the converter's docstring, for the card.
        remarks: what the manifest says besides, made of what it says.
    """
    source = settings["converter"]
    counts = Counts()
    with ExitStack() as stack:
        files = _Files(out_dir, stack)
        for entry in entries:
            counts.add(entry)
            _write_entry(files, source, entry)
        files.sync()
    for name in data_files(source) - files.names:
        (out_dir / name).unlink(missing_ok=True)  # of a run before a retry
    content = {"settings": settings, **counts.content()}
    content |= remarks(content)
    with atomic_write(out_dir / CARD) as file:
        file.write(card_text(source, about, content).encode())
    write_manifest(
        out_dir, content, [name for name in sorted(data_files(source) | {CARD}) if (out_dir / name).exists()]
    )


def data_files(source: str) -> set[str]:
    """Return the names that a conversion may write beside card and manifest."""
    return {f"{source}_{split}.jsonl" for split in SPLITS} | {REJECTED, IMAGES, SOURCES}


class Counts:
    """Counts entries as the manifest shows them."""

    def __init__(self) -> None:
        self._records: Counter[str] = Counter()
        self._classes: dict[str, Counter[str]] = {}
        self._reasons: Counter[str] = Counter()
        self._notes: list[dict[str, str]] = []

    def add(self, entry: Entry) -> None:
        """Count one."""
        if isinstance(entry, Rejected):
            self._reasons[entry.reason] += 1
            return
        self._records[entry.split] += 1
        if entry.label is not None:
            self._classes.setdefault(entry.split, Counter())[entry.label] += 1
        self._notes += [
            {"id": record_id(entry.split, entry.index), "source": entry.source, "note": note} for note in entry.notes
        ]

    def content(self) -> dict[str, Any]:
        """Return the counts, in an order that does not depend on the items'."""
        return {
            "records": {split: self._records[split] for split in SPLITS if split in self._records},
            "classes": {
                split: dict(sorted(self._classes[split].items())) for split in SPLITS if split in self._classes
            },
            "rejected": {"count": self._reasons.total(), "reasons": dict(sorted(self._reasons.items()))},
            "notes": self._notes,
        }


class _Files:
    """Files that are opened when their first line comes, and take their names together when the stack ends."""

    def __init__(self, out_dir: Path, stack: ExitStack) -> None:
        self._out_dir = out_dir
        self._stack = stack
        self._open: dict[str, IO[bytes]] = {}
        self._summed: set[str] = set()

    @property
    def names(self) -> set[str]:
        return set(self._open)

    def add(self, name: str, line: bytes) -> None:
        if name not in self._open:
            self._open[name] = self._stack.enter_context(atomic_write(self._out_dir / name))
        self._open[name].write(line)

    def add_sums(self, name: str, folder: str, stored: Iterable[Stored]) -> None:
        for file in stored:
            if (path := folder + file.name) not in self._summed:
                self._summed.add(path)
                self.add(name, sum_line(path, file.sha256))

    def sync(self) -> None:
        # All of them down to the disk before the first takes its name: a full disk must not leave a set of which
        # one split is missing.
        for file in self._open.values():
            file.flush()
            os.fsync(file.fileno())


def _write_entry(files: _Files, source: str, entry: Entry) -> None:
    if isinstance(entry, Rejected):
        files.add(REJECTED, orjson.dumps(_failure(entry), option=orjson.OPT_APPEND_NEWLINE))
        return
    files.add(f"{source}_{entry.split}.jsonl", entry.line.encode())
    files.add_sums(IMAGES, "images/", entry.images)
    files.add_sums(SOURCES, "", entry.sources)


def _failure(entry: Rejected) -> dict[str, Any]:
    return {
        "id": record_id(entry.split, entry.index),
        "source": entry.source,
        "reason": entry.reason,
        "error": entry.error,
        "message": entry.message,
    }
