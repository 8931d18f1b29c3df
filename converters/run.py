"""Plan, render, write: the one way every converter runs."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import length_hint
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

from phi3v.converters.base import Converter, Item
from phi3v.converters.executor import Lost, ordered_map, ray_map
from phi3v.converters.journal import Entry, Rejected
from phi3v.converters.manifest import settings_of
from phi3v.converters.registry import converter
from phi3v.converters.render import Workshop, render_item
from phi3v.converters.sink import Sink
from phi3v.schema import UserError
from phi3v.schema.errors import require


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How a conversion runs; nothing here changes a byte of what it makes of a good item."""

    jobs: Annotated[int, "Worker processes. 1 works in this process, where no time limit holds."] = 1
    engine: Annotated[Literal["local", "ray"], "Where items are rendered: here, or on a Ray cluster."] = "local"
    ray_address: Annotated[str | None, "The Ray cluster's address. [default: the one that runs on this machine]"] = None
    on_error: Annotated[Literal["fail", "skip"], "At a bad item: stop, or write it to rejected.jsonl and go on."] = (
        "fail"
    )
    retry_failed: Annotated[bool, "Do again what an earlier run rejected, and put it in its place."] = False
    time_limit: Annotated[float, "Seconds that one item may take in a worker process."] = 600.0
    overwrite: Annotated[bool, "Start anew; what --out_dir holds is replaced once the new conversion is complete."] = (
        False
    )

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise UserError(f"--jobs {self.jobs} is no number of processes", fix="give 1 or more")
        if self.time_limit <= 0:
            raise UserError(f"--time_limit {self.time_limit} is no time", fix="give seconds above 0")
        if self.overwrite and self.retry_failed:
            raise UserError("--retry_failed goes on, --overwrite starts anew", fix="leave one of them out")


DEFAULTS = Run()


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The first event of a conversion.

    Attributes:
        total: how many items there are, if the plan knows.
        kept: how many of them an earlier run has done.
    """

    total: int | None
    kept: int


Events = Generator[Planned | Entry, None, None]


def convert(name: str, options: Any, *, out_dir: Path, run: Run = DEFAULTS) -> Events:
    """Convert a data set, yielding `Planned`, then what became of each item that this run did, in order.

    A run that fails, is stopped or killed goes on when it is started again with the same options, and ends with
    the same bytes as one that never stopped. The JSONL files appear when the last item is done, the manifest last.

    Args:
        name: a converter's name.
        options: an instance of that converter's `Options`; with `src_dir` None the data are downloaded.
        out_dir: where `<name>_<split>.jsonl` and `images/` go.
        run: how, and what to do at a bad item.

    Raises:
        UserError: no such converter, a library or the data are missing, an item cannot be converted and `on_error`
            is "fail", or `out_dir` cannot be written or holds something else.
        RuntimeError: a bug in the converter, with its traceback.
    """
    module = converter(name)
    require("convert", *module.MODULES, *(["pebble"] if run.jobs > 1 else []))
    settings = settings_of(name, options, module.MODULES)
    if run.engine == "ray" and options.src_dir is None:
        raise UserError("--engine ray without --src_dir", fix="unpack the data on a path that all nodes share")
    with (
        Sink(out_dir, settings, overwrite=run.overwrite, retry_failed=run.retry_failed) as sink,
        TemporaryDirectory(prefix="phi3v-") as folder,
    ):
        if sink.complete:
            sink.remove_leftovers()
            yield Planned(total=0, kept=0)
            return
        if options.src_dir is None:
            options = _fetched(module, name, options, Path(folder))
        planned = module.plan(options)
        total = length_hint(planned) or None
        items = _begun(planned, name)  # a plan that fails leaves the folder as it was
        sink.begin()
        yield Planned(total=total, kept=sum(1 for _ in sink.journal.entries()))
        for entry in _outcomes(run, _workshop(module, name, options, sink), items, sink):
            if isinstance(entry, Rejected) and run.on_error == "fail":
                raise _stopped(entry)
            sink.commit(entry)
            yield entry
        sink.finish(module.__doc__ or "", partial(getattr(module, "remarks", _no_remarks), options))


def _fetched(module: Converter, name: str, options: Any, folder: Path) -> Any:
    if not hasattr(module, "fetch"):
        raise UserError(f"{name} cannot be fetched", fix="give the data's folder as --src_dir")
    require("convert", "huggingface_hub")
    return module.fetch(options, folder)


def _no_remarks(options: Any, content: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ARG001  # the protocol's
    return {}


def _begun(planned: Iterable[Item], name: str) -> Iterator[Item]:
    """Take the first item, and return all of them."""
    items = iter(planned)
    first = next(items, None)
    if first is None:
        raise UserError(f"{name} finds nothing to convert", fix="check --src_dir and the other options")
    return chain([first], items)


def _workshop(module: Any, name: str, options: Any, sink: Sink) -> Workshop:
    return Workshop(module=module.__name__, source=name, src_dir=options.src_dir, stage=sink.stage)


def _outcomes(run: Run, workshop: Workshop, items: Iterator[Item], sink: Sink) -> Iterator[Entry]:
    """Yield what becomes of each item that is not done yet, in their order."""
    work = partial(render_item, workshop)
    pending = _pending(items, sink.journal.entries())
    if run.engine == "ray":
        results = ray_map(work, pending, address=run.ray_address, time_limit=run.time_limit)
    else:
        results = ordered_map(work, pending, jobs=run.jobs, time_limit=run.time_limit)
    with closing(results):  # workers end before anything else is tidied up
        for (index, item), result in results:
            yield _rejected(index, item, result) if isinstance(result, Lost) else sink.checked(result)


def _pending(items: Iterator[Item], done: Iterator[Entry]) -> Iterator[tuple[int, Item]]:
    """Yield the items that are not done, with their places in the plan."""
    entry = next(done, None)
    for index, item in enumerate(items):
        if entry is None or entry.index != index:
            yield index, item
            continue
        if (entry.split, entry.source) != (item.split, item.source):
            what = f"the source is not what it was: item {index} was {entry.split} {entry.source},"
            what += f" and is {item.split} {item.source}"
            raise UserError(what, fix="restore it, or start anew with --overwrite")
        entry = next(done, None)
    if entry:
        raise UserError(f"the source is not what it was: {entry.source} is gone", fix="start anew with --overwrite")


def _rejected(index: int, item: Item, lost: Lost) -> Rejected:
    fix = "look at this source; --on_error skip goes on without it"
    return Rejected(
        index=index,
        split=item.split,
        source=item.source,
        reason=lost.reason,
        error=lost.error,
        what=lost.what,
        where=item.source,
        fix=fix,
    )


def _stopped(entry: Rejected) -> Exception:
    """Return what ends the run: the user's error, or a bug with its traceback."""
    if entry.trace:
        return RuntimeError(f"{entry.source}: the converter fails with {entry.trace}")
    return UserError(entry.what, where=entry.where or entry.source, fix=entry.fix)
