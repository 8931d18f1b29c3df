"""The output folder: what an earlier run left in it, what this one commits, and its last files, the manifest last.

While a run is unfinished, `.convert/` holds its settings, its journal and images without a name yet. A conversion
without failures leaves no such folder; with failures it stays, and `--retry_failed` goes on from it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from phi3v.converters.finish import Remarks, data_files, write_last_files
from phi3v.converters.journal import Converted, Entry, Journal, Rejected, Stored
from phi3v.converters.manifest import CARD, IMAGES, MANIFEST, WORK, differences, read_manifest, read_sums
from phi3v.converters.render import digest, unwritable
from phi3v.schema import UserError
from phi3v.schema.jsonl import atomic_write

RUN = "run.json"
LOCK = "lock"


class Sink:
    """Writes one conversion. Nothing is made or removed before `begin`.

    Attributes:
        complete: whether an earlier run left nothing to do.
        stage: where workers lay images down, once begun.
        journal: what is done, once begun.

    Args:
        out_dir: made if it is not there.
        settings: what decides the bytes, from `manifest.settings_of`.
        overwrite: remove an earlier conversion, its images included, instead of going on with it.
        retry_failed: do again what an earlier run rejected.

    Raises:
        UserError: `out_dir` cannot be written, or holds another conversion.
    """

    stage: Path
    journal: Journal

    def __init__(self, out_dir: Path, settings: dict[str, Any], *, overwrite: bool, retry_failed: bool) -> None:
        self._out_dir = out_dir
        self._settings = settings
        self._overwrite = overwrite
        self._retry_failed = retry_failed
        self._work = out_dir / WORK
        self._stack = ExitStack()
        with self._telling():
            self.complete = not overwrite and self._is_complete()
            # Told before anything is fetched or decoded.
            nearest = next(path for path in (out_dir.absolute(), *out_dir.absolute().parents) if path.exists())
            if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
                raise PermissionError(f"{nearest} is no folder that can be written to")

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def begin(self) -> None:
        """Take the folder: remove what is to be overwritten, or go on where an earlier run stopped.

        Raises:
            UserError: another run is at work here, or the folder cannot be written.
        """
        with self._telling():
            self._work.mkdir(parents=True, exist_ok=True)
            self._lock()
            if self._overwrite:
                self._clear()
            (self._out_dir / MANIFEST).unlink(missing_ok=True)  # from here on nothing claims to be complete
            with atomic_write(self._work / RUN) as file:
                file.write(orjson.dumps(self._settings))
            self.journal = self._stack.enter_context(closing(Journal(self._work)))
            if entry := self.journal.last():
                self._name_images(entry)
            self.journal.keep(self._stays)
            for folder in self._work.glob("stage-*"):
                shutil.rmtree(folder, ignore_errors=True)
            # A name of its own: workers of a killed run may still be at work in the old one.
            self.stage = Path(tempfile.mkdtemp(prefix="stage-", dir=self._work.absolute()))

    def checked(self, entry: Entry) -> Entry:
        """Return the entry, or its rejection where an image's name is taken by another picture."""
        with self._telling():
            taken = next(filter(self._is_taken, _images(entry)), None)
        return entry if taken is None else _name_taken(entry, taken)

    def commit(self, entry: Entry) -> None:
        """Keep one item: first its line, then the names of its images."""
        with self._telling():
            self.journal.append(entry)
            self._name_images(entry)

    def finish(self, about: str, remarks: Remarks = lambda _: {}) -> None:
        """Write the last files, and remove what only a restart needs; with failures, that is all of it.

        Args:
            about: the converter's docstring, for the card.
            remarks: what the manifest says besides, made of what it says.
        """
        with self._telling():
            write_last_files(self._out_dir, self._settings, self.journal.entries(), about, remarks)
            shutil.rmtree(self.stage, ignore_errors=True)
            self.remove_leftovers()

    def remove_leftovers(self) -> None:
        """Remove the folder of a conversion that is complete without failures."""
        if not read_manifest(self._out_dir)["rejected"]["count"]:
            (self._work / RUN).unlink(missing_ok=True)  # first: without it, the rest is no run to go on with
            shutil.rmtree(self._work, ignore_errors=True)

    # ------------------------------------------------------------------------------------------------ earlier runs

    def _is_complete(self) -> bool:
        """Tell whether a run with these settings is complete here; refuse anything else that is in the way."""
        run, manifest = self._work / RUN, self._out_dir / MANIFEST
        if not run.exists() and not manifest.exists():
            self._refuse_strange_files()
            return False
        before = read_manifest(self._out_dir) if manifest.exists() else {"settings": orjson.loads(run.read_bytes())}
        if changed := differences(before["settings"], self._settings):
            what = f"holds a conversion with other options ({'; '.join(changed)})"
            fix = "give the same options to go on with it, add --overwrite to start anew, or choose another --out_dir"
            raise UserError(what, where=self._out_dir, fix=fix)
        return manifest.exists() and not (self._retry_failed and before["rejected"]["count"])

    def _refuse_strange_files(self) -> None:
        if any((self._out_dir / name).exists() for name in data_files(self._settings["converter"])):
            fix = "add --overwrite, or choose another --out_dir"
            raise UserError("holds an earlier conversion", where=self._out_dir, fix=fix)

    def _clear(self) -> None:
        """Remove an earlier conversion with its images, whatever state it is in; other files stay.

        The manifest goes first, and the lists of images last, so that a kill in between is cleared by the next run.
        """
        names = {*data_files(self._settings["converter"]), CARD}
        if (self._out_dir / MANIFEST).exists():
            with suppress(UserError):  # a damaged manifest is cleared, too
                names |= read_manifest(self._out_dir)["files"].keys()
            (self._out_dir / MANIFEST).unlink()
        for name in (*self._earlier_images(), *(names - {IMAGES}), IMAGES):
            (self._out_dir / name).unlink(missing_ok=True)
        for path in sorted(self._work.iterdir(), key=lambda path: path.name != RUN):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()

    def _earlier_images(self) -> Iterator[str]:
        if (self._out_dir / IMAGES).exists():
            yield from (name for name, _ in read_sums(self._out_dir / IMAGES))
        if (self._work / RUN).exists():
            with closing(Journal(self._work)) as journal:
                for entry in journal.entries():
                    yield from (f"images/{image.name}" for image in _images(entry))

    def _lock(self) -> None:
        lock = self._stack.enter_context((self._work / LOCK).open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            fix = "wait for it, or choose another --out_dir"
            raise UserError("another run is converting into this folder", where=self._out_dir, fix=fix) from error

    def _stays(self, entry: Entry) -> bool:
        """Tell whether an earlier run's entry is good: not to be retried, and its images are there."""
        if isinstance(entry, Rejected) and self._retry_failed:
            return False
        wrong = [path for image in _images(entry) if not _has_size(path := self._target(image), image.size)]
        for path in wrong:
            path.unlink(missing_ok=True)  # else it would count as another source's picture
        return not wrong

    # ------------------------------------------------------------------------------------------------------- images

    def _target(self, image: Stored) -> Path:
        return self._out_dir / "images" / image.name

    def _is_taken(self, image: Stored) -> bool:
        target = self._target(image)
        return target.exists() and (target.stat().st_size != image.size or digest(target) != image.sha256)

    def _name_images(self, entry: Entry) -> None:
        if isinstance(entry, Rejected):
            return
        for number, image in enumerate(entry.images):
            staged = self._work / entry.staged / f"{entry.index}.{number}"
            if staged.exists():
                target = self._target(image)
                target.parent.mkdir(parents=True, exist_ok=True)
                staged.replace(target)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise unwritable(self._out_dir, error) from error


def _images(entry: Entry) -> tuple[Stored, ...]:
    return entry.images if isinstance(entry, Converted) else ()


def _has_size(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size


def _name_taken(entry: Entry, image: Stored) -> Rejected:
    return Rejected(
        index=entry.index,
        split=entry.split,
        source=entry.source,
        reason="name-taken",
        error="UserError",
        what=f"images/{image.name} is there already, with another content",
        fix="rename the source, or remove that picture",
    )
