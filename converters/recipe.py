"""What the original recipe trained on: fetched from the hub, and whether a conversion equals it.

A score may be compared with the recipe's only if the data are the same, so the manifest says whether they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from phi3v.converters.download import hub_files
from phi3v.converters.parquet import BATCH
from phi3v.schema import UserError

CAULDRON = "HuggingFaceM4/the_cauldron"
NIELSR = "nielsr/docvqa_1200_examples"
FETCHED = "fetched.json"
MINI_ROWS = 1000  # of the_cauldron, with --from mini


class Part(NamedTuple):
    """Files of a repository on the hub.

    Attributes:
        repo: `owner/name`.
        pattern: of the files' paths in it.
        split: of ours, that they become.
        rows: how many of each file to take; all if None.
    """

    repo: str
    pattern: str
    split: str
    rows: int | None = None


def cauldron_part(config: str, *, mini: bool) -> Part:
    """Return a data set of the_cauldron, whole or its first rows."""
    if mini:
        return Part(CAULDRON, f"{config}/train-00000-*.parquet", "train", MINI_ROWS)
    return Part(CAULDRON, f"{config}/*.parquet", "train")


def fetch_parts(parts: Iterable[Part], folder: Path) -> None:
    """Fetch Parquet files, and name them in `folder`, with what they are in `fetched.json`.

    Raises:
        UserError: the hub cannot be reached, or keeps them for those who applied.
    """
    fetched = []
    for part in parts:
        by_hand = f"download {part.pattern} of the data set {part.repo} elsewhere, and give its folder as --src_dir"
        revision, files = hub_files(part.repo, part.pattern, by_hand=by_hand)
        for number, path in enumerate(files):
            name = f"{part.split}-{number:05d}-of-{len(files):05d}.parquet"
            if part.rows is None:
                (folder / name).symlink_to(path.resolve())
            else:
                _cut(path, folder / name, part.rows)
        size = sum(path.stat().st_size for path in files)
        fetched.append({**part._asdict(), "revision": revision, "files": len(files), "bytes": size})
    (folder / FETCHED).write_bytes(orjson.dumps(fetched))


def fetched_parts(src_dir: Path) -> list[dict[str, Any]]:
    """Return what `fetch_parts` fetched into this folder; nothing for a folder of the user's."""
    path = src_dir / FETCHED
    content: list[dict[str, Any]] = orjson.loads(path.read_bytes()) if path.is_file() else []
    return content


def comparison(
    src_dir: Path, content: Mapping[str, Any], differs: Mapping[str, bool], counts: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Return what the manifest says of origin and recipe.

    Args:
        src_dir: what was converted.
        content: the manifest's counts.
        differs: by how options may differ from the recipe's, whether they do.
        counts: the recipe's records by split, where they are known.
    """
    fetched = fetched_parts(src_dir)
    found = [what for what, is_so in differs.items() if is_so]
    if not fetched:
        found.append("the data were given as --src_dir, not fetched")
    if any(part["rows"] is not None for part in fetched):
        found.append(f"the first {MINI_ROWS} rows only")
    if content["rejected"]["count"]:
        found.append(f"{content['rejected']['count']} items were rejected")
    if counts is not None and content["records"] != counts:
        found.append(f"records {content['records']}, not {dict(counts)}")
    return {"fetched": fetched, "recipe": {"equal": not found, "differences": found}}


def where_to_apply(name: str, where: str, layout: str) -> UserError:
    """Return the error of official data that nobody may fetch for you."""
    fix = f"{where}, then: phi3v-data convert {name} --src_dir {layout} --out_dir DIR"
    return UserError(f"the official {name} cannot be fetched without an application of yours", fix=fix)


def _cut(source: Path, target: Path, rows: int) -> None:
    """Copy the first rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(source, pre_buffer=False) as file, pq.ParquetWriter(target, file.schema_arrow) as writer:
        for batch in file.iter_batches(BATCH, use_threads=False):
            writer.write_table(pa.Table.from_batches([batch.slice(0, rows)]))
            rows -= min(rows, batch.num_rows)
            if rows == 0:
                return
