"""The output folder: what an earlier run left in it, what this one commits, and its last files, the manifest last.

While a run is unfinished, `.convert/` holds its settings, its journal and images without a name yet. A conversion
without failures leaves no such folder; with failures it stays, and `--retry_failed` goes on from it. A conversion that
overwrites another does all that in a folder of its own (`replace.py`).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import orjson

from phi3v.converters.finish import Remarks, data_files, write_last_files
from phi3v.converters.journal import Converted, Entry, Journal, Rejected, Stored
from phi3v.converters.manifest import LOCK, MANIFEST, RUN, WORK, differences, read_manifest
from phi3v.converters.render import digest, unwritable
from phi3v.converters.replace import NEW, is_half_replaced, replace_earlier
from phi3v.schema import UserError
from phi3v.schema.jsonl import atomic_write


class Sink:
    """Writes one conversion. Nothing is made or removed before `begin`, but for what a killed run was about to.

    Attributes:
        complete: whether an earlier run left nothing to do.
        stage: where workers lay images down, once begun.
        journal: what is done, once begun.

    Args:
        out_dir: made if it is not there.
        settings: what decides the bytes, from `manifest.settings_of`.
        overwrite: replace an earlier conversion, its images included, instead of going on with it.
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
        self._root = out_dir / NEW if overwrite else out_dir  # where it grows
        self._work = self._root / WORK
        self._images = self._root / "images"
        self._folders: set[Path] = set()
        self._stack = ExitStack()
        with self._telling():
            replaced = self._replace_after_a_kill()
            self.complete = replaced and self._is_ours(out_dir) if overwrite else self._is_complete()
            # Told before anything is fetched or decoded.
            nearest = next(path for path in (out_dir.absolute(), *out_dir.absolute().parents) if path.exists())
            if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
                raise PermissionError(f"{nearest} is no folder that can be written to")

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def begin(self) -> None:
        """Take the folder, and go on where an earlier run with these settings stopped.

        Raises:
            UserError: another run is at work here, or the folder cannot be written.
        """
        with self._telling():
            self._stack.enter_context(self._locked())
            if self._overwrite and not self._is_ours(self._root):
                shutil.rmtree(self._root, ignore_errors=True)
            self._work.mkdir(parents=True, exist_ok=True)
            (self._root / MANIFEST).unlink(missing_ok=True)  # from here on nothing claims to be complete
            with atomic_write(self._work / RUN) as file:
                file.write(orjson.dumps(self._settings))
            self.journal = self._stack.enter_context(closing(Journal(self._work)))
            if entry := self.journal.last():
                self._name_images(entry, after_kill=True)
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
            write_last_files(self._root, self._settings, self.journal.entries(), about, remarks)
            shutil.rmtree(self.stage, ignore_errors=True)
            if self._overwrite:
                replace_earlier(self._out_dir)
            self.remove_leftovers()

    def remove_leftovers(self) -> None:
        """Remove the folder of a conversion that is complete without failures."""
        if not read_manifest(self._out_dir)["rejected"]["count"]:
            work = self._out_dir / WORK
            (work / RUN).unlink(missing_ok=True)  # first: without it, the rest is no run to go on with
            shutil.rmtree(work, ignore_errors=True)

    # ------------------------------------------------------------------------------------------------ earlier runs

    def _replace_after_a_kill(self) -> bool:
        if not is_half_replaced(self._out_dir):
            return False
        with self._locked():
            replace_earlier(self._out_dir)
        return True

    def _is_complete(self) -> bool:
        """Tell whether a run with these settings is complete here; refuse anything else that is in the way."""
        before = _settings_in(self._out_dir)
        if before is None:
            self._refuse_strange_files()
            return False
        if changed := differences(before, self._settings):
            what = f"holds a conversion with other options ({'; '.join(changed)})"
            fix = "give the same options to go on with it, add --overwrite to start anew, or choose another --out_dir"
            raise UserError(what, where=self._out_dir, fix=fix)
        if not (self._out_dir / MANIFEST).exists():
            return False
        return not (self._retry_failed and read_manifest(self._out_dir)["rejected"]["count"])

    def _is_ours(self, folder: Path) -> bool:
        before = _settings_in(folder)
        return before is not None and not differences(before, self._settings)

    def _refuse_strange_files(self) -> None:
        if any((self._out_dir / name).exists() for name in data_files(self._settings["converter"])):
            fix = "add --overwrite, or choose another --out_dir"
            raise UserError("holds an earlier conversion", where=self._out_dir, fix=fix)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        work = self._out_dir / WORK
        work.mkdir(parents=True, exist_ok=True)
        with (work / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                fix = "wait for it, or choose another --out_dir"
                raise UserError("another run is converting into this folder", where=self._out_dir, fix=fix) from error
            yield

    def _stays(self, entry: Entry) -> bool:
        """Tell whether an earlier run's entry is good: not to be retried, and its images are there."""
        if isinstance(entry, Rejected) and self._retry_failed:
            return False
        wrong = [path for image in _images(entry) if not _has_size(path := self._images / image.name, image.size)]
        for path in wrong:
            path.unlink(missing_ok=True)  # else it would count as another source's picture
        return not wrong

    # ------------------------------------------------------------------------------------------------------- images

    def _is_taken(self, image: Stored) -> bool:
        target = self._images / image.name
        return target.exists() and (target.stat().st_size != image.size or digest(target) != image.sha256)

    def _name_images(self, entry: Entry, *, after_kill: bool = False) -> None:
        """Move an entry's images from where they wait; after a kill some of them, or all, have their names."""
        if isinstance(entry, Rejected):
            return
        stage = self._work / entry.staged
        for number, image in enumerate(entry.images):
            waiting, target = stage / f"{entry.index}.{number}", self._images / image.name
            if after_kill and not waiting.exists():
                continue
            if target.parent not in self._folders:
                target.parent.mkdir(parents=True, exist_ok=True)
                self._folders.add(target.parent)
            waiting.replace(target)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise unwritable(self._out_dir, error) from error


def _settings_in(folder: Path) -> dict[str, Any] | None:
    """Return the settings of the run that a folder holds, complete or not."""
    if (folder / MANIFEST).exists():
        settings: dict[str, Any] = read_manifest(folder)["settings"]
        return settings
    run = folder / WORK / RUN
    return orjson.loads(run.read_bytes()) if run.exists() else None


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
