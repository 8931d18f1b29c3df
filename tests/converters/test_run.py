"""The engine, by what it leaves in the folder."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phi3v.converters import Converted, Planned, Rejected, Run, convert
from phi3v.converters.manifest import read_manifest, verify
from phi3v.schema import Checker, UserError

Write = Callable[..., Path]
Tree = Callable[[Path], dict[str, bytes]]

TEXTS = {f"{split}_{number:02}": f"ok {number}" for number in range(12) for split in ("test", "train", "val")}


@pytest.fixture
def clean(faults: Any, write_texts: Write, tmp_path: Path, tree: Tree) -> dict[str, bytes]:
    """What an undisturbed run of `TEXTS` leaves."""
    list(convert("faults", faults.Options(src_dir=write_texts(**TEXTS)), out_dir=tmp_path / "clean"))
    return tree(tmp_path / "clean")


def test_events_are_the_plan_then_each_item_in_order(faults: Any, write_texts: Write, tmp_path: Path) -> None:
    source = write_texts(train_b="ok 1", train_a="ok 0", val_a="ok 2")

    first, *rest = convert("faults", faults.Options(src_dir=source), out_dir=tmp_path / "out")

    assert first == Planned(total=3, kept=0)
    assert [event.source for event in rest if isinstance(event, Converted)] == [
        "train_a.txt",
        "train_b.txt",
        "val_a.txt",
    ]
    assert rest[2].record.id == "val-0000000002"  # type: ignore[union-attr]


def test_the_output_passes_the_checks(clean: dict[str, bytes], tmp_path: Path) -> None:
    checker = Checker(images="none")  # its pictures are text

    findings = [list(checker.check(tmp_path / "clean" / name)) for name in clean if name.endswith(".jsonl")]

    assert findings == [[], [], []]
    assert checker.records == 36
    assert list(verify(tmp_path / "clean")) == []


@pytest.mark.parametrize("jobs", [2, 3])
def test_the_same_bytes_whatever_the_number_of_jobs(
    faults: Any, clean: dict[str, bytes], tmp_path: Path, tree: Tree, jobs: int
) -> None:
    (tmp_path / "src/test_00.txt").write_text("slow 0.3")  # the first to start is the last to end
    options = faults.Options(src_dir=tmp_path / "src")
    list(convert("faults", options, out_dir=tmp_path / "one"))

    list(convert("faults", options, out_dir=tmp_path / "many", run=Run(jobs=jobs)))

    assert tree(tmp_path / "many") == tree(tmp_path / "one")
    assert tree(tmp_path / "many").keys() == clean.keys()


@pytest.mark.parametrize("after", [1, 2, 20, 36])
def test_a_stopped_run_goes_on_where_it_stopped(
    faults: Any, clean: dict[str, bytes], tmp_path: Path, tree: Tree, after: int
) -> None:
    options = faults.Options(src_dir=tmp_path / "src")
    run = convert("faults", options, out_dir=tmp_path / "out")
    list(itertools.islice(run, 1 + after))
    run.close()
    assert not list((tmp_path / "out").glob("*.jsonl"))

    first, *rest = convert("faults", options, out_dir=tmp_path / "out")

    assert first == Planned(total=36, kept=after)
    assert len(rest) == 36 - after
    assert tree(tmp_path / "out") == clean


def test_a_complete_run_is_not_done_again(faults: Any, clean: dict[str, bytes], tmp_path: Path, tree: Tree) -> None:
    events = list(convert("faults", faults.Options(src_dir=tmp_path / "src"), out_dir=tmp_path / "clean"))

    assert events == [Planned(total=0, kept=0)]
    assert tree(tmp_path / "clean") == clean


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("state", ["complete", "stopped"])
def test_other_options_are_refused_and_shown(faults: Any, tmp_path: Path, state: str) -> None:
    out = tmp_path / ("clean" if state == "complete" else "out")
    if state == "stopped":
        list(itertools.islice(convert("faults", faults.Options(src_dir=tmp_path / "src"), out_dir=out), 5))

    with pytest.raises(UserError) as caught:
        list(convert("faults", faults.Options(src_dir=tmp_path / "src", images=2), out_dir=out))

    assert "other options (--images: 3 before, 2 now)" in caught.value.what
    assert "--overwrite" in str(caught.value.fix)


def test_overwriting_starts_anew_and_leaves_what_is_not_ours(
    faults: Any, clean: dict[str, bytes], tmp_path: Path, tree: Tree
) -> None:
    options = faults.Options(src_dir=tmp_path / "src", images=2)
    list(convert("faults", options, out_dir=tmp_path / "two"))
    (tmp_path / "clean/images/train/mine.bin").write_bytes(b"mine")

    list(convert("faults", options, out_dir=tmp_path / "clean", run=Run(overwrite=True)))

    assert tree(tmp_path / "clean") == {**tree(tmp_path / "two"), "images/train/mine.bin": b"mine"}
    assert len(tree(tmp_path / "two")) == len(clean) - 36


def test_overwriting_a_stopped_run_removes_its_images(
    faults: Any, clean: dict[str, bytes], tmp_path: Path, tree: Tree
) -> None:
    stopped = convert("faults", faults.Options(src_dir=tmp_path / "src", images=5), out_dir=tmp_path / "out")
    list(itertools.islice(stopped, 9))
    stopped.close()

    list(convert("faults", faults.Options(src_dir=tmp_path / "src"), out_dir=tmp_path / "out", run=Run(overwrite=True)))

    assert tree(tmp_path / "out") == clean


def test_a_source_that_changed_since_is_told(faults: Any, write_texts: Write, tmp_path: Path) -> None:
    options = faults.Options(src_dir=write_texts(train_b="ok", train_c="ok", train_d="ok"))
    list(itertools.islice(convert("faults", options, out_dir=tmp_path / "out"), 3))
    write_texts(train_a="ok")

    with pytest.raises(UserError, match="item 0 was train train_b.txt, and is train train_a.txt"):
        list(convert("faults", options, out_dir=tmp_path / "out"))


def test_images_that_vanished_since_are_made_again(
    faults: Any, clean: dict[str, bytes], tmp_path: Path, tree: Tree
) -> None:
    options = faults.Options(src_dir=tmp_path / "src")
    list(itertools.islice(convert("faults", options, out_dir=tmp_path / "out"), 20))
    (tmp_path / "out/images/test/test_03.1.bin").unlink()
    (tmp_path / "out/images/test/test_05.0.bin").write_bytes(b"half")

    first, *_ = list(convert("faults", options, out_dir=tmp_path / "out"))

    assert first == Planned(total=36, kept=17)
    assert tree(tmp_path / "out") == clean


# ---------------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("text", "reason", "told"),
    [
        ("bad", "says-bad", ("SourceError", "says that it is bad\n  fix: write something else")),
        ("bug", "ZeroDivisionError", ("ZeroDivisionError", "ZeroDivisionError: nobody foresaw this")),
        ("control", "breaks-contract", ("RecordError", "breaks the contract")),
    ],
)
def test_a_bad_item_is_skipped_on_request_and_accounted_for(
    faults: Any, write_texts: Write, tmp_path: Path, text: str, reason: str, told: tuple[str, str]
) -> None:
    source = write_texts(train_a="ok", train_b=text, train_c="ok")

    events = list(convert("faults", faults.Options(src_dir=source), out_dir=tmp_path / "out", run=Run(on_error="skip")))

    assert isinstance(events[2], Rejected)
    (line,) = (tmp_path / "out/rejected.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert entry.keys() == {"id", "source", "reason", "error", "message"}
    assert (entry["id"], entry["source"]) == ("train-0000000001", "train_b.txt")
    assert (entry["reason"], entry["error"]) == (reason, told[0])
    assert told[1] in entry["message"]
    assert read_manifest(tmp_path / "out")["rejected"] == {"count": 1, "reasons": {reason: 1}}
    ids = [json.loads(line)["id"] for line in (tmp_path / "out/faults_train.jsonl").read_text().splitlines()]
    assert ids == ["train-0000000000", "train-0000000002"]  # no skip moves another id
    assert list(verify(tmp_path / "out")) == []


def test_the_first_bad_item_stops_the_run_and_is_named(faults: Any, write_texts: Write, tmp_path: Path) -> None:
    options = faults.Options(src_dir=write_texts(train_a="ok", train_b="slow 0.5", train_c="bad", train_d="bad"))

    with pytest.raises(UserError) as caught:
        list(convert("faults", options, out_dir=tmp_path / "out", run=Run(jobs=2)))

    assert str(caught.value.where).endswith("train_c.txt")
    assert not list((tmp_path / "out").glob("*.jsonl"))


def test_a_bug_stops_the_run_with_its_traceback(faults: Any, write_texts: Write, tmp_path: Path) -> None:
    options = faults.Options(src_dir=write_texts(train_a="bug"))

    with pytest.raises(RuntimeError, match="train_a.txt: the converter fails with Traceback[^$]*in render[^$]*nobody"):
        list(convert("faults", options, out_dir=tmp_path / "out", run=Run(jobs=2)))


def test_what_stopped_a_run_can_be_mended_or_skipped(faults: Any, write_texts: Write, tmp_path: Path) -> None:
    options = faults.Options(src_dir=write_texts(train_a="ok", train_b="bad", train_c="ok"))
    with pytest.raises(UserError):
        list(convert("faults", options, out_dir=tmp_path / "out"))

    first, *rest = convert("faults", options, out_dir=tmp_path / "out", run=Run(on_error="skip"))

    assert first == Planned(total=3, kept=1)
    assert [type(event) for event in rest] == [Rejected, Converted]


def test_what_failed_is_retried_and_takes_its_place(
    faults: Any, write_texts: Write, tmp_path: Path, tree: Tree
) -> None:
    bad = {"train_03": "bad", "val_07": "bug", "test_11": "die"}
    options = faults.Options(src_dir=write_texts(**(TEXTS | bad)))
    list(convert("faults", options, out_dir=tmp_path / "out", run=Run(jobs=2, on_error="skip")))
    assert read_manifest(tmp_path / "out")["rejected"]["count"] == 3
    write_texts(**TEXTS)
    list(convert("faults", options, out_dir=tmp_path / "clean"))

    first, *rest = convert("faults", options, out_dir=tmp_path / "out", run=Run(retry_failed=True))

    assert first == Planned(total=36, kept=33)
    assert [event.source for event in rest] == ["test_11.txt", "train_03.txt", "val_07.txt"]  # type: ignore[union-attr]
    assert tree(tmp_path / "out") == tree(tmp_path / "clean")


def test_a_retry_that_is_stopped_goes_on_too(faults: Any, write_texts: Write, tmp_path: Path, tree: Tree) -> None:
    bad = dict.fromkeys(["train_03", "train_05", "val_07"], "bad")
    options = faults.Options(src_dir=write_texts(**(TEXTS | bad)))
    list(convert("faults", options, out_dir=tmp_path / "out", run=Run(on_error="skip")))
    write_texts(**TEXTS)
    list(convert("faults", options, out_dir=tmp_path / "clean"))
    stopped = convert("faults", options, out_dir=tmp_path / "out", run=Run(retry_failed=True))
    list(itertools.islice(stopped, 2))
    stopped.close()

    first, *rest = convert("faults", options, out_dir=tmp_path / "out")

    assert first == Planned(total=36, kept=34)
    assert len(rest) == 2
    assert tree(tmp_path / "out") == tree(tmp_path / "clean")


def test_what_fails_again_stays_rejected(faults: Any, write_texts: Write, tmp_path: Path, tree: Tree) -> None:
    options = faults.Options(src_dir=write_texts(train_a="ok", train_b="bad", train_c="bad"))
    list(convert("faults", options, out_dir=tmp_path / "out", run=Run(on_error="skip")))
    before = {name: data for name, data in tree(tmp_path / "out").items() if not name.startswith(".convert")}

    events = list(convert("faults", options, out_dir=tmp_path / "out", run=Run(on_error="skip", retry_failed=True)))

    assert [type(event) for event in events] == [Planned, Rejected, Rejected]
    assert {name: data for name, data in tree(tmp_path / "out").items() if not name.startswith(".convert")} == before


@pytest.mark.parametrize(
    ("text", "reason", "what"),
    [
        ("die", "worker-died", "exit code 7"),
        ("crash", "worker-died", "signal 11"),
        ("hang", "time-limit", "time limit of 1.5 seconds"),
    ],
)
def test_a_worker_that_dies_or_hangs_costs_its_item_alone(
    faults: Any, write_texts: Write, tmp_path: Path, text: str, reason: str, what: str
) -> None:
    source = write_texts(**(dict(itertools.islice(TEXTS.items(), 12)) | {"train_01": text}))
    run = Run(jobs=2, on_error="skip", time_limit=1.5)

    events = list(convert("faults", faults.Options(src_dir=source), out_dir=tmp_path / "out", run=run))

    (rejected,) = (event for event in events if isinstance(event, Rejected))
    assert (rejected.source, rejected.reason) == ("train_01.txt", reason)
    assert what in rejected.message
    assert sum(isinstance(event, Converted) for event in events) == 11


def test_workers_that_die_between_two_items_cost_nothing(
    faults: Any, clean: dict[str, bytes], tmp_path: Path, tree: Tree
) -> None:
    """As where the system kills them for want of memory."""
    events = convert("faults", faults.Options(src_dir=tmp_path / "src"), out_dir=tmp_path / "out", run=Run(jobs=2))
    list(itertools.islice(events, 5))
    time.sleep(1)  # what is under way is done

    for worker in multiprocessing.active_children():
        worker.kill()

    assert len(list(events)) == 32
    assert tree(tmp_path / "out") == clean


def test_two_sources_never_overwrite_each_other(faults: Any, write_texts: Write, tmp_path: Path) -> None:
    source = write_texts(train_a="ok 1", train_b="ok 2", train_c="ok 1")
    options = faults.Options(src_dir=source, same_name=True)

    events = list(convert("faults", options, out_dir=tmp_path / "out", run=Run(on_error="skip")))

    assert [type(event) for event in events[1:]] == [Converted, Rejected, Converted]  # c brings what a brought
    assert events[2].reason == "name-taken"  # type: ignore[union-attr]
    assert (tmp_path / "out/images/train.0.bin").read_bytes() == b"0 ok 1" * 200
    assert list(verify(tmp_path / "out")) == []


def test_nothing_to_convert_is_told(faults: Any, write_texts: Write, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="faults finds nothing to convert"):
        list(convert("faults", faults.Options(src_dir=write_texts()), out_dir=tmp_path / "out"))

    assert not (tmp_path / "out").exists()


def test_two_runs_at_once_in_one_folder_are_refused(faults: Any, write_texts: Write, tmp_path: Path) -> None:
    options = faults.Options(src_dir=write_texts(train_a="ok", train_b="ok"))
    first = convert("faults", options, out_dir=tmp_path / "out")
    list(itertools.islice(first, 2))

    with pytest.raises(UserError, match="another run is converting"):
        list(convert("faults", options, out_dir=tmp_path / "out"))

    assert len(list(first)) == 1  # and the first goes on


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": 0}, "--jobs 0"),
        ({"time_limit": 0.0}, "--time_limit 0.0"),
        ({"overwrite": True, "retry_failed": True}, "--retry_failed goes on"),
    ],
)
def test_settings_that_cannot_be_right_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Run(**options)


def test_memory_does_not_grow_with_the_number_of_items(faults: Any, write_texts: Write, tmp_path: Path) -> None:
    source = write_texts(**{f"train_{number:04}": "x" * 5000 for number in range(300)})

    def peak(images: int) -> int:
        tracemalloc.start()
        for _ in convert("faults", faults.Options(src_dir=source, images=images), out_dir=tmp_path / str(images)):
            pass
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(0)  # imports and caches

    # 300 items bring 300 MB of pictures with one each; one at a time is 1 MB, and text of the source 10 KB.
    assert peak(1) < 5_000_000
