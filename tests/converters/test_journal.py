from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phi3v.converters.journal import Converted, Entry, Journal, Rejected, Stored


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[], Journal]]:
    """Open the journal of the test's folder, again and again."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(Journal(tmp_path)))


def converted(index: int) -> Converted:
    return Converted(
        index=index,
        split="train",
        source=f"{index}\u2028é",
        line='{"metadata": {"a": {}}}\n',
        label="L",
        images=(Stored("train/a.jpg", 3, "00"),),
        sources=(Stored("a.avi", 3, "11"),),
        notes=("n",),
        staged="stage-1",
    )


def rejected(index: int) -> Rejected:
    return Rejected(
        index=index, split="val", source=str(index), reason="r", error="E", what="w", where="f", fix="g", trace="t"
    )


def test_entries_come_back_as_they_were(opened: Callable[[], Journal]) -> None:
    entries: list[Entry] = [converted(0), rejected(1), converted(2)]
    journal = opened()
    for entry in entries:
        journal.append(entry)
    journal.close()

    again = opened()

    assert list(again.entries()) == entries
    assert again.last() == entries[-1]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_a_line_cut_anywhere_is_dropped_and_the_lines_before_stay(tmp_path: Path, data: st.DataObject) -> None:
    (tmp_path / "journal").unlink(missing_ok=True)
    journal = Journal(tmp_path)
    ends = [0]
    for index in range(3):
        journal.append(converted(index))
        ends.append((tmp_path / "journal").stat().st_size)
    journal.close()
    cut = data.draw(st.integers(0, ends[-1]))
    (tmp_path / "journal").write_bytes((tmp_path / "journal").read_bytes()[:cut])

    again = Journal(tmp_path)
    whole = sum(end <= cut for end in ends[1:])
    again.append(rejected(whole))

    assert [entry.index for entry in again.entries()] == list(range(whole + 1))
    again.close()


def test_entries_are_those_of_the_time_of_asking(opened: Callable[[], Journal]) -> None:
    journal = opened()
    journal.append(converted(0))

    entries = journal.entries()
    journal.append(converted(1))

    assert [entry.index for entry in entries] == [0]


def test_what_is_not_kept_is_forgotten_and_filled_in_order(opened: Callable[[], Journal]) -> None:
    journal = opened()
    for entry in (converted(0), rejected(1), converted(2), rejected(3)):
        journal.append(entry)

    journal.keep(lambda entry: isinstance(entry, Converted))

    assert [entry.index for entry in journal.entries()] == [0, 2]
    journal.append(converted(1))
    journal.append(converted(3))
    assert [(entry.index, type(entry)) for entry in journal.entries()] == [(index, Converted) for index in range(4)]


def test_a_kill_between_the_two_steps_of_keeping_doubles_nothing(opened: Callable[[], Journal], tmp_path: Path) -> None:
    journal = opened()
    for entry in (converted(0), rejected(1), converted(2)):
        journal.append(entry)
    before = (tmp_path / "journal").read_bytes()
    journal.keep(lambda entry: isinstance(entry, Converted))
    journal.close()
    (tmp_path / "journal").write_bytes(before)  # as if it had not been emptied yet

    again = opened()

    assert [(entry.index, type(entry)) for entry in again.entries()] == [(0, Converted), (1, Rejected), (2, Converted)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_an_error_at_the_line(tmp_path: Path) -> None:
    with closing(Journal(tmp_path)) as journal, Path("/dev/full").open("ab", buffering=0) as full:
        journal._file.close()
        journal._file = full

        with pytest.raises(OSError, match="No space left"):
            journal.append(converted(0))
