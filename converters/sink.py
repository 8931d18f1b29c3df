"""Where drafts become files: images at once, each split's JSONL under its name only when all is done."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO

import orjson

from phi3v.converters.base import SPLITS, Draft
from phi3v.schema import Conversation, RecordError, UserError
from phi3v.schema.jsonl import atomic_write, read_lines
from phi3v.schema.rules import breaches


class Sink:
    """Writes `<out_dir>/images/...` and, when its block ends without an error, `<out_dir>/<source>_<split>.jsonl`.

    Nothing is made or removed before the first record.

    Args:
        out_dir: made if it is not there.
        source: the data set's name.
        overwrite: replace an earlier conversion, its images included, instead of refusing.

    Raises:
        UserError: `out_dir` cannot be written, or holds an earlier conversion.
    """

    def __init__(self, out_dir: Path, source: str, *, overwrite: bool) -> None:
        self._out_dir = out_dir
        self._source = source
        self._stack = ExitStack()
        self._files: dict[str, IO[bytes]] = {}
        try:
            self._earlier = [path for split in SPLITS if (path := self._path(split)).exists()]
        except OSError as error:
            raise self._unwritable(error) from error
        if self._earlier and not overwrite:
            fix = "add --overwrite, or choose another --out_dir"
            raise UserError("holds an earlier conversion", where=out_dir, fix=fix)
        # Told before anything is fetched or decoded.
        nearest = next(path for path in (out_dir.absolute(), *out_dir.absolute().parents) if path.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            raise self._unwritable(PermissionError(f"{nearest} is no folder that can be written to"))

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                # All of them down to the disk before the first takes its name: a full disk must not leave a set
                # of which one split is missing.
                for file in self._files.values():
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as full:
            self._stack.__exit__(type(full), full, full.__traceback__)
            raise self._unwritable(full) from full
        self._stack.__exit__(kind, error, trace)

    def write(self, draft: Draft) -> Conversation:
        """Write one draft's images, then its line; return the record.

        Raises:
            UserError: the record breaks the contract, or a file cannot be written.
        """
        try:
            record = draft.record(self._source)
            line = _checked_line(record)
        except RecordError as error:
            fix = "rename what it is made from, such as a class folder"
            raise UserError(f"record {draft.id!r} breaks the contract: {error}", fix=fix) from error
        try:
            self._remove_earlier()
            for name, data in draft.images.items():
                path = self._out_dir / "images" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(path, durable=False) as file:
                    file.write(data)
            if draft.split not in self._files:
                self._files[draft.split] = self._stack.enter_context(atomic_write(self._path(draft.split)))
            self._files[draft.split].write(line)
        except OSError as error:
            raise self._unwritable(error) from error
        return record

    def _path(self, split: str) -> Path:
        return self._out_dir / f"{self._source}_{split}.jsonl"

    def _remove_earlier(self) -> None:
        """Remove an earlier conversion and its images; those of other data sets in the same folder stay."""
        while self._earlier:
            path = self._earlier.pop()
            for line in read_lines(path):
                try:
                    images = Conversation.from_line(line.data).images
                except RecordError:
                    continue  # not a line of ours, so its images are not, either
                for name in images:
                    (self._out_dir / "images" / name).unlink(missing_ok=True)
            path.unlink()

    def _unwritable(self, error: OSError) -> UserError:
        fix = "free some space, or choose another --out_dir"
        return UserError(f"cannot write here ({error.strerror or error})", where=self._out_dir, fix=fix)


def _checked_line(record: Conversation) -> bytes:
    line = record.to_line().encode()
    if breach := next(breaches(orjson.loads(line)), None):
        raise RecordError(breach.message)
    return line
