"""Any data set that the `datasets` library reads: from the hub by name, or a folder, streamed.

Source:  --dataset OWNER/NAME on the hub, or --src_dir, a folder that `datasets.load_dataset` reads.
Licence: as its card says.
Turns:   as --user, --assistant, --image, --turns and --conversation say; the options are those of `convert table`.
Splits:  as published: train, validation (or val, dev) and test; --take NAME=train|val|test takes others, or some.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from phi3v.converters.annotations import Row
from phi3v.converters.base import SPLITS
from phi3v.converters.columns import ColumnMapping, ColumnOptions, Place
from phi3v.converters.images import safe_name
from phi3v.converters.posed import Posed, render
from phi3v.converters.splits import SPLIT_OF, split_of
from phi3v.schema import UserError
from phi3v.schema.errors import first_line

__all__ = ["MODULES", "SUMMARY", "Options", "fetch", "plan", "render"]

SUMMARY = "Any data set of the hub, columns mapped by flags"
EXAMPLE = "--dataset OWNER/NAME --user question --assistant answer --image image"
MODULES = ("datasets", "pyarrow")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(ColumnOptions):
    """What `phi3v-data convert hub` takes."""

    src_dir: Annotated[Path | None, "A local folder, instead of --dataset."] = None
    dataset: Annotated[str | None, "The hub's name of the data set."] = None
    config: Annotated[str | None, "Which of its configurations."] = None
    revision: Annotated[str | None, "Branch, tag or commit of it."] = None
    take: Annotated[tuple[str, ...], "A split to take, NAME or NAME=train|val|test. [default: all]"] = ()


def fetch(options: Options, folder: Path) -> Options:
    """Leave the data where they are: rows are fetched as they are converted."""
    if not options.dataset:
        raise UserError("no data set", fix="give --dataset OWNER/NAME, or a folder as --src_dir")
    return replace(options, src_dir=folder)


def plan(options: Options) -> Iterator[Posed]:
    """Yield the records, split by split, in the order of the rows."""
    name = options.dataset or str(options.src_dir)
    splits = _load(name, options)
    wanted = _wanted(options.take, list(splits))
    for split in sorted(wanted, key=lambda one: SPLITS.index(wanted[one])):
        rows = splits[split]
        if rows.features is not None:  # else there is nothing that would be decoded
            rows = rows.decode(enable=False)
        mapping = ColumnMapping(options, _columns(rows))
        folder = options.image_dir or options.src_dir
        assert folder is not None, "fetched before the plan"
        yield from mapping.records(_rows(rows, split, name), Place(wanted[split], folder, safe_name(split)))


def _load(name: str, options: Options) -> dict[str, Any]:
    import datasets

    try:
        loaded = datasets.load_dataset(name, options.config, revision=options.revision, streaming=True)
    except datasets.exceptions.DatasetNotFoundError as error:
        fix = "check its name; if it is gated, apply on its page, then `hf auth login`, or set HF_TOKEN"
        raise UserError(f"no data set {name!r} that you may read ({first_line(error)})", fix=fix) from error
    except (OSError, ValueError, RuntimeError, ConnectionError) as error:
        raise UserError(f"cannot load {name!r} ({first_line(error)})", fix=_remedy(str(error))) from error
    return dict(loaded)


def _remedy(told: str) -> str:
    if "script" in told:
        return "give --revision refs/convert/parquet, the hub's own conversion"
    if "onfig" in told:
        return "give --config"
    return "check --dataset, --config and the network; or download it elsewhere, and give its folder as --src_dir"


def _wanted(take: tuple[str, ...], there: list[str]) -> dict[str, str]:
    """Return which splits to take, and what they are called here."""
    wanted = {}
    for text in take or there:
        name, _, called = text.partition("=")
        split = SPLIT_OF.get(called) if called else split_of(name)
        if name not in there:
            raise UserError(f"no split {name!r}", fix=f"there are: {', '.join(there)}")
        if split is None:
            raise UserError(f"split {name!r}, which may be anything", fix=f"give --take {name}=train, =val or =test")
        wanted[name] = split
    return wanted


def _columns(rows: Any) -> list[str]:
    """Return the columns' names; streamed JSON tells them only with its first row."""
    return list(rows.column_names or next(iter(rows), {}))


def _rows(rows: Any, split: str, name: str) -> Iterator[Row]:
    import datasets

    named = {
        column: feature for column, feature in (rows.features or {}).items() if isinstance(feature, datasets.ClassLabel)
    }
    try:
        for number, data in enumerate(rows):
            # A class is stored as its number; -1 is the hub's word for a secret one.
            labels = {
                column: feature.int2str(data[column]) if data[column] is not None and data[column] >= 0 else None
                for column, feature in named.items()
            }
            yield Row(f"{split}:row {number}", {key: _brought(cell) for key, cell in {**data, **labels}.items()})
    except (OSError, ValueError, RuntimeError) as error:
        what = f"reading {name!r} fails ({type(error).__name__}: {first_line(error)})"
        raise UserError(what, fix="run the same command again, it goes on where it stopped") from error


def _brought(cell: Any) -> Any:
    """Return a cell with the bytes of pictures that are files of the hub; a list cell by cell."""
    if isinstance(cell, list):
        return [_brought(one) for one in cell]
    if isinstance(cell, dict) and cell.keys() == {"bytes", "path"} and cell["bytes"] is None:
        path = str(cell["path"])
        if path.rpartition("::")[2].startswith("hf://"):
            import fsspec

            with fsspec.open(path, "rb") as file:
                return {"bytes": file.read(), "path": path}
    return cell
