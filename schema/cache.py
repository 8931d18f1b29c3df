"""Remembers what was found in files, so that unchanged ones cost the reading of their bytes.

There is one entry for the same files and options. It holds until a file's bytes, a picture or the checks change; then
it is replaced, so that a folder does not grow with each commit.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import orjson

from phi3v.schema.contract import schema_text
from phi3v.schema.findings import Excerpt, Finding
from phi3v.schema.jsonl import atomic_write


class Remembered(NamedTuple):
    """What a check gave: how many records it read, and its findings in order."""

    records: int
    findings: list[Finding]


class Entry(NamedTuple):
    """Where a result is kept, and a digest of the files and the checks that it was made from."""

    path: Path
    content: str


class Cache:
    """A folder of results; git is told to leave it out.

    Args:
        folder: made if it is not there.
        options: what else the results depend on.
    """

    def __init__(self, folder: Path, options: Sequence[object]) -> None:
        self._folder = folder
        self._options = repr(options)
        self._checks = repr((version("phi3v"), _code_stamp(), schema_text()))

    def entry(self, files: Sequence[Path]) -> Entry:
        """Return which entry is that of some files, and what it must have been made from; reads the files."""
        name = hashlib.sha256(repr((self._options, [(str(file), str(file.absolute())) for file in files])).encode())
        content = hashlib.sha256(self._checks.encode())
        for file in files:
            with file.open("rb") as opened:
                content.update(hashlib.file_digest(opened, "sha256").digest())
        return Entry(self._folder / f"{name.hexdigest()}.json", content.hexdigest())

    def load(self, entry: Entry) -> Remembered | None:
        """Return what is remembered, None if there is nothing or something has changed since."""
        try:
            saved = orjson.loads(entry.path.read_bytes())
            if saved["content"] != entry.content or saved["pictures"] != _stamp(saved["names"]):
                return None
            findings = [
                Finding(**{**fields, "excerpt": fields["excerpt"] and Excerpt(**fields["excerpt"])})
                for fields in saved["findings"]
            ]
            return Remembered(saved["records"], findings)
        except (OSError, ValueError, KeyError, TypeError):  # not there, or not written by this version
            return None

    def save(self, entry: Entry, remembered: Remembered, pictures: Iterable[Path]) -> None:
        """Remember a result and the pictures that it depends on."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / ".gitignore").write_text("*\n")
        names = [str(picture) for picture in pictures]
        saved = {
            "content": entry.content,
            "records": remembered.records,
            "findings": remembered.findings,
            "names": names,
            "pictures": _stamp(names),
        }
        with atomic_write(entry.path, durable=False) as file:
            file.write(orjson.dumps(saved))


def _code_stamp() -> str:
    """Return what changes when a developer edits the checks: a version alone would not."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return repr([(source.name, source.stat().st_mtime_ns) for source in sources])


def _stamp(names: Iterable[str]) -> str:
    """Return a digest of sizes and times of files; links are followed."""
    digest = hashlib.blake2b()
    for name in names:
        try:
            status = os.stat(name)  # noqa: PTH116  # Path would double the time
            digest.update(b"%d %d," % (status.st_size, status.st_mtime_ns))
        except OSError:
            digest.update(b"gone,")
    return digest.hexdigest()
