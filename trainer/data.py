"""The files of a converted folder as data sets that read a record when it is asked for."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch.utils.data import Dataset

from phi3v.schema import Checker, Conversation, RecordError, UserError
from phi3v.schema.check import jsonl_files
from phi3v.schema.jsonl import line_offsets, read_line_at, read_lines

Policy = Literal["fail", "skip"]


@dataclass(frozen=True, slots=True)
class DataFiles:
    """Which files play which part: their names say it.

    Attributes:
        train, evaluation: the files.
        sizes: width and height, in pixels, of the pictures of the training files as far as they were looked at.
    """

    train: list[Path]
    evaluation: list[Path]
    sizes: dict[str, tuple[int, int]]


def find_files(data_dir: Path, on_error: Policy = "fail") -> DataFiles:
    """Return the files to train on (`*_train.jsonl`) and to score on (`*_val.jsonl`, else a labelled `*_test.jsonl`).

    Every record of them is checked: bad data must not surface in the middle of a run. With `skip` the pictures of
    training records are left to whoever reads them; those of evaluation are checked in any case, as scores over
    different samples cannot be compared.

    Raises:
        UserError: no such folder, nothing to train on, a finding, or a training record without its answer.
    """
    (train,) = _by_role(data_dir, "train")
    if not train:
        fix = "name the file to train on <source>_train.jsonl"
        raise UserError("no *_train.jsonl in this folder", where=data_dir, fix=fix)
    checker = Checker(images="header" if on_error == "fail" else "none", remember=True)
    check_files([path for path in train if path.stat().st_size], checker)
    return DataFiles(train, find_evaluation(data_dir), checker.sizes())


def find_evaluation(data_dir: Path) -> list[Path]:
    """Return the files to score on alone; none if there are none, or they have no answers.

    Raises:
        UserError: no such folder, an empty file, or a finding.
    """
    validation, test = _by_role(data_dir, "val", "test")
    evaluation = validation or test
    for path in evaluation:
        if not path.stat().st_size:
            fix = "take the file away to train without scores, or convert the data again"
            raise UserError("no record to score on in this file", where=path, fix=fix)
    check_files(evaluation)
    # An unlabelled test set is not for scoring.
    return [path for path in evaluation if has_answers(path)]


def _by_role(data_dir: Path, *roles: str) -> list[list[Path]]:
    if not data_dir.is_dir():
        raise UserError("no such folder", where=data_dir, fix="convert first: phi3v-data convert --help")
    files = jsonl_files(data_dir)
    return [[path for path in files if path.stem.endswith(f"_{role}")] for role in roles]


def check_files(paths: list[Path], checker: Checker | None = None) -> None:
    """Check every record of some files, by their pictures' headers if no checker is given.

    Raises:
        UserError: a check finds an error; the first is quoted. Warnings stop nothing.
    """
    checker = checker or Checker()
    for path in paths:
        for finding in checker.check(path):
            if finding.severity == "warning":
                continue
            raise UserError(str(finding), fix=f"see all there is: phi3v-data validate {path.parent}")


def has_answers(path: Path) -> bool:
    """Return whether some record of a file has an answer to score against."""
    return any(Conversation.from_line(line.data).turns[-1].accepted for line in read_lines(path))


def said_in_worker(error: UserError) -> UserError:
    """Return the error as it was raised: torch re-raises a loader's with the worker's traceback as its message."""
    _, marker, said = error.what.rpartition(f"{UserError.__module__}.{UserError.__qualname__}: ")
    what, _, fix = said.strip().partition("\n  fix: ")
    return UserError(what, fix=fix or None) if marker else error


def changed(error: RecordError) -> UserError:
    """Return the error of a record that was right when it was checked."""
    return UserError(str(error), fix="phi3v-data validate the file, and start again")


class Records(Dataset[Conversation]):
    """The records of several files, read by offset: 16 bytes a record in memory, whatever its size.

    Args:
        paths: JSONL files.

    Attributes:
        paths: the same.

    Raises:
        UserError: they hold no record.
    """

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self._files = array("Q")
        self._offsets = array("Q")
        for number, path in enumerate(paths):
            offsets = line_offsets(path)
            self._offsets.extend(offsets)
            self._files.extend([number] * len(offsets))
        if not self._offsets:
            raise UserError("no record in this file", where=paths[0], fix="convert the data again")

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Conversation:
        return Conversation.from_line(read_line_at(self.file(index), self._offsets[index]))

    def __iter__(self) -> Iterator[Conversation]:
        """Read all records in their order, opening each file once."""
        for path in self.paths:
            for line in read_lines(path):
                yield Conversation.from_line(line.data)

    def file(self, index: int) -> Path:
        """Return the file that a record is in."""
        return self.paths[self._files[index]]
