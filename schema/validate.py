"""The work of `phi3v-data validate`: which files, which findings of them, and what to say in the end."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from phi3v.schema.cache import Cache, Remembered
from phi3v.schema.check import Checker, Limit, jsonl_files
from phi3v.schema.errors import UserError
from phi3v.schema.findings import CODES, Finding
from phi3v.schema.lines import role_of
from phi3v.schema.options import Options, is_in, names_in
from phi3v.schema.quarantine import quarantine
from phi3v.schema.rules import count_noun

_MOST_LABELS = 12  # that are shown of a file
_MOST_REMEMBERED = 100_000  # findings: more are not kept for the next time


class _Group(NamedTuple):
    """Files that are checked together: those of a folder, or one."""

    files: list[Path]
    checker: Checker
    across: bool


class Validation:
    """One run over files and folders; ids are unique, and splits apart, within a folder.

    Args:
        paths: files, and folders for their *.jsonl files.
        options: what to do.
        watch: called with the number of lines read so far.

    Attributes:
        codes: how many findings there were of each code.

    Raises:
        UserError: a file cannot be read, or a folder holds none.
    """

    def __init__(self, paths: Sequence[Path], options: Options, watch: Callable[[int], None] | None = None) -> None:
        self.codes: Counter[str] = Counter()
        self._options = options
        self._watch = watch
        self._groups = [self._group(path) for path in paths]
        self._records = 0
        self._stopped = False
        self._errors: dict[Path, dict[int, list[Finding]]] = defaultdict(lambda: defaultdict(list))
        self._whole: set[Path] = set()
        about_files = (options.image_root, options.images, options.max_length, options.num_crops, options.tokenizer)
        on = options.cache_dir is not None and not options.statistics
        depends = (*about_files, options.byte_bound, options.near_duplicates)
        self._cache = Cache(options.cache_dir, depends) if on and options.cache_dir else None

    def findings(self) -> Iterator[Finding]:
        """Yield the findings that are asked for, file by file."""
        for group in self._groups:
            for finding in self._of_group(group):
                if not self._is_asked_for(finding.code):
                    continue
                if self.codes.total() == self._options.max_findings:
                    self._stopped = True
                    return
                self.codes[finding.code] += 1
                if self._options.quarantine and finding.severity == "error":
                    self._errors[Path(finding.file)][finding.line].append(finding)
                    self._whole |= {Path(finding.file)} if finding.excerpt is None else set()
                yield finding

    @property
    def failed(self) -> bool:
        """Whether there was an error, or, with `strict`, any finding."""
        return any(self._options.strict or CODES[code].severity == "error" for code in self.codes)

    def split_files(self) -> Iterator[str]:
        """Set the lines with errors aside; yield what was done."""
        for path in [path for group in self._groups for path in group.files]:
            if path in self._whole:
                yield f"{path}: left as it is: no line of it can be read"
                continue
            split = quarantine(path, self._errors.get(path, {}))
            if split.rejected:
                yield f"{path}: {count_noun(split.kept, 'record')} kept, {split.rejected} moved to {split.aside}"

    def summary(self) -> str:
        """Return what was read and what was found, in one line."""
        files = sum(len(group.files) for group in self._groups)
        state = ", ".join(f"{count} {code}" for code, count in sorted(self.codes.items())) or "no findings"
        stopped = f" (stopped after {count_noun(self.codes.total(), 'finding')})" if self._stopped else ""
        return f"{count_noun(self._records, 'record')} in {count_noun(files, 'file')}: {state}{stopped}"

    def statistics(self) -> Iterator[str]:
        """Yield how often each code was found, and the answers of each file of a folder."""
        for code, count in self.codes.most_common():
            yield f"{count:7} {code:20} {CODES[code].severity}: {CODES[code].title}"
        for group in self._groups:
            for file, labels in group.checker.labels.items():
                yield f"{file}: {_shares(labels)}"

    def _group(self, path: Path) -> _Group:
        options = self._options
        files = jsonl_files(path) if path.is_dir() else [path]
        for file in files:
            if not os.access(file, os.R_OK):
                raise UserError("cannot read it", where=file, fix="make it readable")
        across = path.is_dir() and (len({role_of(file) or file.stem for file in files}) > 1 or options.statistics)
        limit = options.max_length and Limit(
            max_length=options.max_length,
            num_crops=options.num_crops,
            tokenizer=options.tokenizer,
            byte_bound=options.byte_bound,
        )
        checker = Checker(
            image_root=options.image_root,
            images=options.images,
            limit=limit or None,
            across=across,
            jobs=options.jobs,
            remember=options.cache_dir is not None,
            watch=self._watch,
        )
        return _Group(files, checker, across)

    def _of_group(self, group: _Group) -> Iterator[Finding]:
        entry = self._cache.entry(group.files) if self._cache else None
        if self._cache and entry and (remembered := self._cache.load(entry)):
            self._records += remembered.records
            yield from remembered.findings
            return
        found: list[Finding] = []
        try:
            for finding in self._checked(group):
                if self._cache and len(found) < _MOST_REMEMBERED:
                    found.append(finding)
                yield finding
        finally:
            self._records += group.checker.records
        if self._cache and entry and len(found) < _MOST_REMEMBERED:
            self._cache.save(entry, Remembered(group.checker.records, found), group.checker.pictures())

    def _checked(self, group: _Group) -> Iterator[Finding]:
        for file in group.files:
            yield from group.checker.check(file)
        if group.across:
            yield from group.checker.leaks(near_duplicates=self._options.near_duplicates)

    def _is_asked_for(self, code: str) -> bool:
        selected, ignored = names_in(self._options.select), names_in(self._options.ignore)
        chosen = not selected or any(is_in(code, name) for name in selected)
        return chosen and not any(is_in(code, name) for name in ignored)


def _shares(labels: Counter[str]) -> str:
    """Return the most frequent answers with their shares."""
    shown = ", ".join(
        f"{label!r:.40} {count / labels.total():.1%}" for label, count in labels.most_common(_MOST_LABELS)
    )
    more = f", and {len(labels) - _MOST_LABELS} more" if len(labels) > _MOST_LABELS else ""
    return f"{count_noun(labels.total(), 'answer')}, {len(labels)} different: {shown}{more}"
