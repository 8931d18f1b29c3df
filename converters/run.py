"""Plan, render, write: the one way every converter runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from phi3v.converters.registry import converter
from phi3v.converters.sink import Sink
from phi3v.schema import Conversation, RecordError, UserError
from phi3v.schema.errors import require


def convert(name: str, options: Any, *, out_dir: Path, overwrite: bool = False) -> Iterator[Conversation]:
    """Convert a data set, yielding each record once it is written.

    The JSONL files take their names only when the last record is written: a run that fails or is stopped
    leaves images, but no JSONL that looks whole.

    Args:
        name: a converter's name.
        options: an instance of that converter's `Options`; with `src_dir` None the data are downloaded.
        out_dir: where `<name>_<split>.jsonl` and `images/` go.
        overwrite: replace an earlier conversion in `out_dir`.

    Raises:
        UserError: no such converter, a library or the data are missing, an item cannot be read, or `out_dir`
            cannot be written.
    """
    module = converter(name)
    require("convert", *module.MODULES)
    if options.src_dir is None:
        require("convert", "huggingface_hub")
    with Sink(out_dir, name, overwrite=overwrite) as sink, TemporaryDirectory(prefix="phi3v-") as folder:
        if options.src_dir is None:
            options = module.fetch(options, Path(folder))
        for item in module.plan(options):
            try:
                draft = module.render(item)
            except RecordError as error:
                fix = "rename what it is made from, such as a class folder"
                raise UserError(f"{item} breaks the contract: {error}", fix=fix) from error
            yield sink.write(draft)
