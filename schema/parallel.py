"""Work on lines and headers in this process, or in several; decoding always in processes of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import lru_cache
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi3v.schema.jsonl import Block, Span, read_blocks, spans
from phi3v.schema.lines import Known, LineChecker, Wants

if TYPE_CHECKING:
    from phi3v.schema.decoder import Decoders
    from phi3v.schema.images import Flaw, Folder, Look

_SPAN = 4 << 20  # bytes of a file that one task takes
_HEADERS = 512  # images that one task takes


class Pool:
    """Does the work of a check, in the order of the input.

    Args:
        jobs: processes; 1 is this one.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._executor: ProcessPoolExecutor | None = None
        self._decoders: Decoders | None = None

    def look(self, path: Path, wants: Wants) -> Iterator[tuple[Block, Known]]:
        """Yield the blocks of a file and what is known of their lines; from other processes come no lines."""
        if self._jobs == 1 or path.stat().st_size <= _SPAN:
            checker = LineChecker(str(path), wants)
            yield from ((block, checker.look(block)) for block in read_blocks(path))
            return
        before = 0
        tasks = ((path, span, wants) for span in spans(path, _SPAN))
        for blocks in self._map(_look_at_span, tasks):
            lines = 0
            for block, known in blocks:
                yield block._replace(number=before + block.number), _moved(known, before)
                lines += len(known.ids)
            before += lines

    def look_at_headers(self, root: Path, names: Sequence[str]) -> list[Look]:
        """Return a look at each image's header."""
        if not names:
            return []
        if self._jobs == 1 or len(names) < 2 * _HEADERS:
            return _look_at_headers((root, names))
        tasks = ((root, names[at : at + _HEADERS]) for at in range(0, len(names), _HEADERS))
        return [look for looks in self._map(_look_at_headers, tasks) for look in looks]

    def decode(self, paths: Sequence[str]) -> list[list[Flaw]]:
        """Return what decoding each image brings up."""
        return self.decoders.run(paths) if paths else []

    @property
    def decoders(self) -> Decoders:
        """The processes that decode."""
        if self._decoders is None:
            from phi3v.schema.decoder import Decoders

            self._decoders = Decoders(self._jobs)
        return self._decoders

    def close(self) -> None:
        """End the processes."""
        if self._executor:
            self._executor.shutdown(cancel_futures=True)
        if self._decoders:
            self._decoders.close()
        self._executor = self._decoders = None

    def _map(self, work: Any, tasks: Iterable[Any]) -> Iterator[Any]:
        if self._executor is None:
            # spawn: fork deadlocks once a library has started threads
            self._executor = ProcessPoolExecutor(self._jobs, mp_context=get_context("spawn"))
        queue = iter(tasks)
        pending: deque[Future[Any]] = deque(self._executor.submit(work, task) for task in islice(queue, 2 * self._jobs))
        while pending:
            yield pending.popleft().result()
            pending.extend(self._executor.submit(work, task) for task in islice(queue, 1))


def _look_at_span(task: tuple[Path, Span, Wants]) -> list[tuple[Block, Known]]:
    path, span, wants = task
    checker = _checker(str(path), wants)
    return [(block._replace(lines=[]), checker.look(block)) for block in read_blocks(path, span)]


@lru_cache(maxsize=1)
def _checker(file: str, wants: Wants) -> LineChecker:
    return LineChecker(file, wants)


def _look_at_headers(task: tuple[Path, Sequence[str]]) -> list[Look]:
    root, names = task
    return list(_folder(root).look_all(names))


@lru_cache(maxsize=16)
def _folder(root: Path) -> Folder:
    from phi3v.schema.images import Folder

    return Folder(root)


def _moved(known: Known, lines: int) -> Known:
    """Return the same, with line numbers that count from `lines` lines earlier."""
    if not known.findings or not lines:
        return known
    from dataclasses import replace

    moved = {
        index: [replace(finding, line=finding.line + lines) for finding in findings]
        for index, findings in known.findings.items()
    }
    return known._replace(findings=moved)
