from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from phi3v.schema import Conversation, Turn, UserError
from phi3v.trainer.data import Records, check_files, find_files, has_answers


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str, count: int = 1, *, assistant: str | None = "A") -> Path:
        path = tmp_path / name
        turn = Turn(user="Q", assistant=assistant)
        records = [Conversation(id=f"{name}-{number}", source="s", turns=(turn,)) for number in range(count)]
        path.write_text("".join(record.to_line() for record in records))
        return path

    return make


def test_names_say_what_a_file_is_for(write: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("b_train.jsonl", "a_train.jsonl", "a_val.jsonl", "a_test.jsonl", "notes.jsonl"):
        write(name)

    files = find_files(tmp_path)

    assert [path.name for path in files.train] == ["a_train.jsonl", "b_train.jsonl"]
    assert [path.name for path in files.evaluation] == ["a_val.jsonl"]


def test_sizes_of_the_training_pictures_come_with_the_check(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write("a_train.jsonl")
    (tmp_path / "images" / "b").mkdir(parents=True)
    names = ("b/x.png", "y.png")
    for name, size in zip(names, ((30, 20), (7, 9)), strict=True):
        Image.new("RGB", size).save(tmp_path / "images" / name)
    path.write_text(Conversation(id="1", source="s", turns=(Turn(user="Q", assistant="A", images=names),)).to_line())

    assert find_files(tmp_path).sizes == {"b/x.png": (30, 20), "y.png": (7, 9)}
    assert find_files(tmp_path, "skip").sizes == {}


def test_without_validation_a_labelled_test_is_scored(write: Callable[..., Path], tmp_path: Path) -> None:
    write("a_train.jsonl")
    write("a_test.jsonl")
    write("b_test.jsonl", assistant=None)

    assert [path.name for path in find_files(tmp_path).evaluation] == ["a_test.jsonl"]


@pytest.mark.parametrize(
    ("names", "message"), [([], "no .jsonl file"), (["a_val.jsonl"], r"no \*_train.jsonl in this folder")]
)
def test_nothing_to_train_on(write: Callable[..., Path], tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        write(name)

    with pytest.raises(UserError, match=message):
        find_files(tmp_path)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        find_files(tmp_path / "nowhere")


def test_records_of_several_files_in_order(write: Callable[..., Path]) -> None:
    records = Records([write("a.jsonl", 3), write("b.jsonl", 2)])

    assert list(records) == [records[number] for number in range(5)]
    assert [record.id for record in map(records.__getitem__, range(len(records)))] == [
        "a.jsonl-0",
        "a.jsonl-1",
        "a.jsonl-2",
        "b.jsonl-0",
        "b.jsonl-1",
    ]


def test_an_empty_file(write: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="no record in this file"):
        Records([write("a.jsonl", 0)])


def test_a_finding_stops_the_run_before_it_begins(write: Callable[..., Path]) -> None:
    path = write("a_train.jsonl", 2)
    check_files([path])
    path.write_text(path.read_text()[:-20])

    with pytest.raises(UserError, match=rf"{path}:2:\d+: json: .*\n  fix: .*phi3v-data validate {path.parent}"):
        check_files([path])


@pytest.mark.parametrize("role", ["train", "val"])
def test_a_record_without_an_answer_is_told_by_line(write: Callable[..., Path], tmp_path: Path, role: str) -> None:
    write("a_train.jsonl", 2)
    path = write(f"a_{role}.jsonl", 2)
    open_record = Conversation(id="open", source="s", turns=(Turn(user="Q"),))
    path.write_text(path.read_text() + open_record.to_line())

    with pytest.raises(UserError, match=rf"a_{role}.jsonl:3:49: unanswered: .*no 'assistant'"):
        find_files(tmp_path)


def test_a_bad_test_file_is_a_finding_not_a_traceback(write: Callable[..., Path], tmp_path: Path) -> None:
    write("a_train.jsonl")
    (tmp_path / "a_test.jsonl").write_text('{"id": "x"')

    with pytest.raises(UserError, match="a_test.jsonl:1:11: json"):
        find_files(tmp_path)


@pytest.mark.parametrize("role", ["val", "test"])
def test_an_empty_split_to_score_on_is_told(write: Callable[..., Path], tmp_path: Path, role: str) -> None:
    write("a_train.jsonl")
    (tmp_path / f"a_{role}.jsonl").touch()

    with pytest.raises(UserError, match=f"a_{role}.jsonl: no record to score on in this file"):
        find_files(tmp_path)


def test_a_file_with_some_answers_has_answers(write: Callable[..., Path]) -> None:
    assert has_answers(write("a.jsonl", 3))
    assert not has_answers(write("b.jsonl", 3, assistant=None))
