from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from phi3v.trainer import ledger
from phi3v.trainer.data import Records
from phi3v.trainer.fit import Fit, Fits, Skipped
from phi3v.trainer.step_data import Failure
from phi3v.trainer.steps import Batching, Steps


@pytest.fixture
def records(grey_levels: Callable[[int], Path]) -> Records:
    return Records([grey_levels(10) / "grey_train.jsonl"])


@pytest.fixture
def fits() -> Fits:
    made = Fits()
    for number in range(10):
        made.append(Fit(0, 0, 0) if number == 4 else Fit(100 + number, 5, 4 - number % 2, number == 7))
    made.skipped[4] = Skipped("too-long", "900 tokens")
    return made


@pytest.mark.parametrize("done", [0, 1, 3, 4, 7])
@pytest.mark.parametrize("processes", [1, 2])
def test_counts_are_those_of_the_steps(records: Records, fits: Fits, done: int, processes: int) -> None:
    steps = Steps(fits.kept, fits.sizes, Batching(size=4, processes=processes), epochs=3, seed=5)
    failed = Failure(0, steps.samples(0)[0], "gone")
    later = Failure(done, steps.samples(done)[0], "not yet")

    entries = list(ledger.training_entries(records, fits, steps, done, [failed, later]))

    expected = Counter(sample for step in range(done) for own in steps.of(step) for one in own.packs for sample in one)
    if done:
        expected[failed.sample] -= 1
    assert [entry["trained"] for entry in entries] == [expected[number] for number in range(10)]
    assert [entry["id"] for entry in entries] == [f"g-{number}" for number in range(10)]
    assert entries[4] == {
        "id": "g-4",
        "file": "grey_train.jsonl",
        "trained": 0,
        "skipped": "too-long",
        "reason": "900 tokens",
    }
    assert (entries[7]["tokens"], entries[7]["num_crops"], entries[7]["dropped_turns"]) == (107, 3, 1)
    reasons = {entry["id"]: entry["reason"] for entry in entries if entry.get("skipped") == "image"}
    assert reasons == ({f"g-{failed.sample}": "gone"} if done else {})


def test_a_ledger_is_a_line_a_sample(records: Records, tmp_path: Path) -> None:
    ledger.write(tmp_path, ledger.evaluation_entries(records, {"g-3": 2, "elsewhere": 1}))

    lines = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": f"g-{number}", "file": "grey_train.jsonl", "evaluated": 2 * (number == 3)} for number in range(10)
    ]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
