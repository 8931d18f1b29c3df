"""Tests that every converter passes; a plug-in has them by deriving a class.

    class TestCaptions(ConverterTests):
        name = "captions"

        def make_source(self, folder):
            ...write a small source into `folder`...
            return Options(src_dir=folder)

Covered: shape, pickling, determinism, jobs, resume, hostile files, the contract, the manifest. Not covered: whether
the records say what the source says; write golden records for that.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

from phi3v.converters.base import SPLITS, Item
from phi3v.converters.journal import Converted, Entry, Rejected
from phi3v.converters.manifest import WORK, verify
from phi3v.converters.registry import PARTS, converter
from phi3v.converters.run import DEFAULTS, Run, convert
from phi3v.schema import Checker, UserError

# What a source file turns into: nothing, text, its first half, zeros, noise behind a good beginning.
HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "text": lambda _: b"<html>404 not found</html>",
    "half": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "noise": lambda data: data[:64] + bytes(byte ^ 0xA5 for byte in data[64:]),
}
MOST_FILES = 3  # of a source that are made hostile, in turn


class ConverterTests:
    """Derive a class named `Test...`, set `name`, and write `make_source`.

    Attributes:
        name: the converter's, as in `phi3v-data convert NAME`.
    """

    name: str

    def make_source(self, folder: Path) -> Any:
        """Write a small source, at least four items, into the existing `folder`; return the `Options` that read it."""
        raise NotImplementedError

    def test_it_has_what_a_converter_needs(self) -> None:
        """Every part of the protocol, and a text for every option."""
        module = converter(self.name)
        assert all(hasattr(module, part) for part in PARTS)
        for heading in ("Source:", "Licence:", "Turns:", "Splits:"):
            assert heading in (module.__doc__ or ""), heading
        assert dataclasses.is_dataclass(module.Options)
        hints = get_type_hints(module.Options, include_extras=True)
        assert all(get_origin(hint) is Annotated for hint in hints.values())

    def test_the_plan_is_the_same_again_and_its_items_travel(self, tmp_path: Path) -> None:
        """Items are equal after pickling, and name their split and source."""
        options = self.make_source(tmp_path)
        items = list(converter(self.name).plan(options))
        assert len(items) >= 4, "make_source writes at least four items"  # noqa: PLR2004
        assert items == list(converter(self.name).plan(options))
        assert items == pickle.loads(pickle.dumps(items))  # noqa: S301  # what was pickled a word before
        assert all(isinstance(item, Item) and item.split in SPLITS and item.source for item in items)

    def test_the_output_passes_the_checks(self, tmp_path: Path) -> None:
        """No finding, and the manifest agrees with the files."""
        _run(self.name, self._options(tmp_path), tmp_path / "out")
        _assert_good(tmp_path / "out")

    def test_two_jobs_write_the_same_bytes(self, tmp_path: Path) -> None:
        """As one does, in an empty folder."""
        options = self._options(tmp_path)
        _run(self.name, options, tmp_path / "one")
        _run(self.name, options, tmp_path / "two", Run(jobs=2))
        assert _tree(tmp_path / "one") == _tree(tmp_path / "two")

    def test_a_stopped_run_goes_on(self, tmp_path: Path) -> None:
        """Stopped after each of the first items, it ends with the same bytes."""
        options = self._options(tmp_path)
        events = _run(self.name, options, tmp_path / "clean")
        for after in range(1, min(len(events), 5)):
            run = convert(self.name, options, out_dir=tmp_path / str(after))
            list(islice(run, 1 + after))
            run.close()
            rest = _run(self.name, options, tmp_path / str(after))
            assert len(rest) == len(events) - after, "an item was done again, or lost"
            assert _tree(tmp_path / str(after)) == _tree(tmp_path / "clean")

    def test_hostile_files_cost_their_own_items(self, tmp_path: Path) -> None:
        """Each item is accounted for, items of other files stay as they were, and what is written is good."""
        (tmp_path / "clean").mkdir()
        options = self.make_source(tmp_path / "clean")
        clean = {event.index: event for event in _run(self.name, options, tmp_path / "out")}
        files = sorted({path for item in converter(self.name).plan(options) for path in item.files})[:MOST_FILES]
        for path in files:
            for what, spoil in HOSTILE.items():
                self._spoil(tmp_path, path.relative_to(options.src_dir), what, spoil, clean)

    def _options(self, tmp_path: Path) -> Any:
        (tmp_path / "source").mkdir()
        return self.make_source(tmp_path / "source")

    def _spoil(
        self, tmp_path: Path, name: Path, what: str, spoil: Callable[[bytes], bytes], clean: dict[int, Entry]
    ) -> None:
        folder = tmp_path / f"{what} {name.name}"
        (folder / "source").mkdir(parents=True)
        options = self.make_source(folder / "source")
        spoilt = options.src_dir / name
        readers = {n for n, item in enumerate(converter(self.name).plan(options)) if spoilt in item.files}
        spoilt.write_bytes(spoil(spoilt.read_bytes()))
        try:
            events = _run(self.name, options, folder / "out", Run(on_error="skip"))
        except UserError:  # the plan itself reads the file, and says what is wrong
            return
        assert [event.index for event in events] == sorted(clean), f"{name} ({what}): an item is lost"
        for event in events:
            if isinstance(event, Rejected):
                assert event.index in readers, f"{name} ({what}): {event.source} does not read it"
                assert not event.trace, f"{name} ({what}): the error names no remedy: {event.trace}"
            elif event.index not in readers:
                assert event.line == getattr(clean[event.index], "line", None)
        if any(isinstance(event, Converted) for event in events):
            _assert_good(folder / "out")


def _run(name: str, options: Any, out_dir: Path, run: Run = DEFAULTS) -> list[Entry]:
    events = convert(name, options, out_dir=out_dir, run=run)
    return [event for event in events if isinstance(event, Converted | Rejected)]


def _tree(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and WORK not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _assert_good(out_dir: Path) -> None:
    checker = Checker()
    for path in sorted(out_dir.glob("*.jsonl")):
        if path.name != "rejected.jsonl":
            findings = list(checker.check(path))
            assert not findings, findings[0]
    assert not list(verify(out_dir))
