"""What became of every sample of the data: `samples.jsonl`, one line a sample, in the order of the files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from phi3v.schema.jsonl import atomic_write
from phi3v.trainer.data import Records
from phi3v.trainer.fit import Fits
from phi3v.trainer.step_data import Failure
from phi3v.trainer.steps import Steps

FILE_NAME = "samples.jsonl"


def training_entries(
    records: Records, fits: Fits, steps: Steps, done: int, failures: Collection[Failure]
) -> Iterator[dict[str, Any]]:
    """Yield what became of the training samples after `done` steps.

    Which samples a step holds is computed again, not remembered: a resumed run and one on several processes count
    like any other.
    """
    trained = [0] * len(records)
    for step in range(done):
        for sample in steps.samples(step):
            trained[sample] += 1
    unread: dict[int, str] = {}
    for failure in failures:
        if failure.step < done:
            trained[failure.sample] -= 1
            unread[failure.sample] = failure.reason
    for number, count in enumerate(trained):
        fit, skipped = fits[number], fits.skipped.get(number)
        entry: dict[str, Any] = {"id": records[number].id, "file": records.file(number).name, "trained": count}
        if skipped:
            yield entry | {"skipped": skipped.code, "reason": skipped.reason}
            continue
        entry |= {"tokens": fit.tokens, "num_crops": fit.num_crops}
        if fit.dropped_turns:
            entry["dropped_turns"] = fit.dropped_turns
        yield entry | ({"skipped": "image", "reason": unread[number]} if number in unread else {})


def evaluation_entries(records: Records, evaluated: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Yield how often each sample to score on was answered, by its id."""
    for number in range(len(records)):
        own = records[number].id
        yield {"id": own, "file": records.file(number).name, "evaluated": evaluated.get(own, 0)}


def write(folder: Path, entries: Iterable[dict[str, Any]]) -> None:
    """Write the ledger; it takes its name when it is whole."""
    with atomic_write(folder / FILE_NAME) as file:
        for entry in entries:
            file.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
