"""Where drafts become files: images at once, each split's JSONL under its name only when all is done."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from phi3v.converters.base import SPLITS, Draft
from phi3v.schema import Conversation, UserError
from phi3v.schema.jsonl import atomic_write


class Sink:
    """Writes `<out_dir>/images/...` and, when its block ends without an error, `<out_dir>/<source>_<split>.jsonl`.

    Args:
        out_dir: made if it is not there.
        source: the data set's name.
        overwrite: replace an earlier conversion instead of refusing.

    Raises:
        UserError: `out_dir` cannot be written, or holds an earlier conversion.
    """

    def __init__(self, out_dir: Path, source: str, *, overwrite: bool) -> None:
        self._out_dir = out_dir
        self._source = source
        self._stack = ExitStack()
        self._files: dict[str, IO[bytes]] = {}
        self._earlier = [path for split in SPLITS if (path := self._path(split)).exists()]
        if self._earlier and not overwrite:
            raise UserError(
                "holds an earlier conversion", where=out_dir, fix="add --overwrite, or choose another --out_dir"
            )
        try:
            (out_dir / "images").mkdir(parents=True, exist_ok=True)
            (out_dir / "images" / ".writable").touch()
            (out_dir / "images" / ".writable").unlink()
        except OSError as error:
            raise UserError(
                f"cannot write here ({error.strerror})", where=out_dir, fix="choose another --out_dir"
            ) from error

    def _path(self, split: str) -> Path:
        return self._out_dir / f"{self._source}_{split}.jsonl"

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        with suppress(OSError):  # folders that stayed empty, as after a plan that failed at once
            (self._out_dir / "images").rmdir()
            self._out_dir.rmdir()

    def write(self, draft: Draft) -> Conversation:
        """Write one draft's images, then its line; return the record."""
        while self._earlier:  # not before there is something to put in its place
            self._earlier.pop().unlink()
        record = draft.record(self._source)
        for name, data in draft.images.items():
            path = self._out_dir / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as file:
                file.write(data)
        if draft.split not in self._files:
            self._files[draft.split] = self._stack.enter_context(atomic_write(self._path(draft.split)))
        self._files[draft.split].write(record.to_line().encode())
        return record
