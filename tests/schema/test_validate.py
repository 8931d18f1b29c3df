"""The work of the command, without the command line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from phi3v.schema import CODES, Checker, UserError
from phi3v.schema.cache import Cache, Entry, Remembered
from phi3v.schema.findings import explain
from phi3v.schema.options import Options
from phi3v.schema.validate import Validation

ROOT = Path(__file__).parents[2]
INVALID = ROOT / "fixtures" / "invalid"


def line(number: int, **turn: Any) -> str:
    return (
        json.dumps({"id": str(number), "source": "s", "conversations": [{"user": "Q", "assistant": "A", **turn}]})
        + "\n"
    )


def codes_of(paths: list[Path], **options: Any) -> list[str]:
    return [finding.code for finding in Validation(paths, Options(**options)).findings()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "s_train.jsonl").write_text(line(1) + line(2, assistant="B") + line(2) + "{\n")
    (tmp_path / "s_val.jsonl").write_text(line(1) + line(5, user="<|end|>") + line(6, images=["a.png"]))
    return tmp_path


def test_select_and_ignore_take_codes_and_their_groups(folder: Path) -> None:
    everything = codes_of([folder])

    assert sorted(everything) == ["control-token", "duplicate-id", "duplicate-id", "image-missing", "json"]
    assert codes_of([folder], select="json,image") == ["json", "image-missing"]
    assert codes_of([folder], ignore="duplicate-id, image") == ["json", "control-token"]
    assert codes_of([folder], select="image", ignore="image-missing") == []


def test_it_stops_after_so_many_and_says_so(folder: Path) -> None:
    validation = Validation([folder], Options(max_findings=2))

    assert len(list(validation.findings())) == 2
    assert validation.summary().endswith("(stopped after 2 findings)")
    exact = Validation([folder], Options(max_findings=5))
    assert len(list(exact.findings())) == 5
    assert "stopped" not in exact.summary()


def test_warnings_alone_do_not_fail_but_strictly(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(line(1, user="one of the following classes: C, D."))

    for strict in (False, True):
        validation = Validation([path], Options(strict=strict))
        assert [finding.code for finding in validation.findings()] == ["answer-not-listed"]
        assert validation.failed is strict
    assert validation.summary() == "1 record in 1 file: 1 answer-not-listed"


def test_statistics_count_codes_and_answers(folder: Path) -> None:
    validation = Validation([folder], Options(statistics=True))
    list(validation.findings())

    said = "\n".join(validation.statistics())

    assert "      2 duplicate-id         error: two records share an id" in said
    assert f"{folder / 's_train.jsonl'}: 3 answers, 2 different: 'A' 66.7%, 'B' 33.3%" in said


def test_errors_are_set_aside_and_the_rest_is_right(folder: Path) -> None:
    (folder / "s_test.jsonl").write_bytes("{}".encode("utf-16"))
    validation = Validation([folder], Options(quarantine=True))
    list(validation.findings())

    said = list(validation.split_files())

    assert said == [
        f"{folder / 's_test.jsonl'}: left as it is: no line of it can be read",
        f"{folder / 's_train.jsonl'}: 2 records kept, 2 moved to {folder / 's_train.rejected.jsonl'}",
        f"{folder / 's_val.jsonl'}: 0 records kept, 3 moved to {folder / 's_val.rejected.jsonl'}",
    ]
    assert codes_of([folder / "s_train.jsonl"]) == []
    assert sorted(codes_of([folder])) == ["empty-file", "encoding"]  # what is set aside is no data


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": 0}, "--jobs is 0"),
        ({"num_crops": 17}, "--num_crops is 17"),
        ({"max_findings": 0}, "--max_findings is 0"),
        ({"image_root": Path("nowhere")}, "no such folder"),
        ({"quarantine": True, "max_findings": 1}, "--quarantine needs all findings"),
        ({"byte_bound": True}, "count for --max_length"),
        ({"max_length": 9, "images": "none"}, "needs the images' sizes"),
        ({"select": "jsno"}, "no code 'jsno'\n  fix: did you mean 'json'"),
        ({"ignore": "xyz"}, "the codes are json, "),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        Options(**options)


def test_every_code_is_explained() -> None:
    for name, code in CODES.items():
        words = explain(name)
        assert words.startswith(f"{name} ({code.severity}): ")
        assert code.why in words
        assert code.fix in words


# ------------------------------------------------------------------------------------------------------------ cache


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "images" / "a.png")
    path = tmp_path / "a.jsonl"
    path.write_text(line(1, images=["a.png"]) + line(1))
    return path


def run(path: Path, **options: Any) -> tuple[list[str], str, bool]:
    """What a run says, and whether it had looked at the lines."""
    seen: list[int] = []
    validation = Validation([path], Options(cache_dir=path.parent / "cache", **options), seen.append)
    return [str(finding) for finding in validation.findings()], validation.summary(), bool(seen)


def test_an_unchanged_file_is_not_looked_at_again(cached: Path) -> None:
    first, summary, looked = run(cached)
    assert (len(first), looked) == (1, True)

    assert run(cached) == (first, summary, False)
    assert (cached.parent / "cache" / ".gitignore").read_text() == "*\n"


def test_what_a_result_depends_on_is_noticed(cached: Path) -> None:
    run(cached)

    assert run(cached, images="full")[2]  # other options
    cached.write_text(cached.read_text() + line(3))
    assert run(cached)[1:] == ("3 records in 1 file: 1 duplicate-id", True)  # other lines
    (cached.parent / "images" / "a.png").write_bytes(b"")
    assert len(run(cached)[0]) == 2  # another picture
    (cached.parent / "images" / "a.png").unlink()
    assert "image-missing" in run(cached)[0][0]
    Image.new("RGB", (20, 20)).save(cached.parent / "images" / "a.png")
    assert len(run(cached)[0]) == 1  # a picture that is there again
    copy = cached.parent / "copy"
    copy.mkdir()
    shutil.copy(cached, copy)
    (copy / "images").mkdir()
    assert any("image-missing" in finding for finding in run(copy / "a.jsonl")[0])  # the same lines elsewhere


def test_a_run_that_was_cut_short_is_not_remembered(cached: Path) -> None:
    cached.write_text(cached.read_text() + "{\n")
    run(cached, max_findings=1)

    assert len(run(cached)[0]) == 2


def test_an_entry_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    cache, entry = Cache(tmp_path, ()), Entry(tmp_path / "a.json", "digest")
    cache.save(entry, Remembered(1, []), [])
    assert cache.load(entry) == (1, [])
    for broken in (b"", b"[]", b"{}", b'{"content": "digest", "pictures": 1, "names": []}', b"\xff"):
        entry.path.write_bytes(broken)
        assert cache.load(entry) is None
    assert cache.load(entry._replace(path=tmp_path / "b.json")) is None


def test_a_cache_does_not_grow_with_each_change_of_a_file(cached: Path) -> None:
    for number in range(3):
        cached.write_text(line(number))
        assert run(cached)[2]

    assert len(list((cached.parent / "cache").glob("*.json"))) == 1


def test_what_is_remembered_names_the_file_as_it_is_given_now(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(cache_dir=cached.parent / "cache")
    monkeypatch.chdir(cached.parent)

    for path in (cached, Path(cached.name), cached):
        assert [finding.file for finding in Validation([path], options).findings()] == [str(path)]


# ------------------------------------------------------------------------------------------------------------- jobs


@pytest.mark.slow
def test_jobs_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small spans, so that a file of little more than a megabyte goes to several processes in many parts."""
    from phi3v.schema import parallel

    monkeypatch.setattr(parallel, "_SPAN", 100_000)
    monkeypatch.setattr(parallel, "_HEADERS", 4)
    (tmp_path / "images").mkdir()
    for number in range(20):
        Image.new("RGB", (20, 20)).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "images" / "3.png").write_bytes(b"x")
    rows = [
        line(number % 7_000, images=[f"{number % 21}.png"], user="Q" * (number % 90 + 1)) for number in range(9_000)
    ]
    rows[::500] = ["{\n", "\n", line(-1, user=""), line(-2, user="</s>"), *rows[:14]]
    (tmp_path / "a_train.jsonl").write_text("".join(rows))
    (tmp_path / "a_val.jsonl").write_text("".join(rows[:50]))

    def findings(jobs: int) -> list[str]:
        checker = Checker(jobs=jobs, across=True)
        names = ("a_train.jsonl", "a_val.jsonl")
        found = [str(finding) for name in names for finding in checker.check(tmp_path / name)]
        return [*found, *map(str, checker.leaks()), str(checker.records), str(checker.labels)]

    alone = findings(1)

    assert len(alone) > 2_000
    assert findings(2) == alone


def test_findings_are_the_same_whatever_the_size_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    from phi3v.schema import jsonl

    whole = {path: [str(finding) for finding in Checker().check(path)] for path in INVALID.glob("*.jsonl")}
    monkeypatch.setattr(jsonl.read_blocks, "__kwdefaults__", {"size": 1})

    for path, expected in whole.items():
        assert [str(finding) for finding in Checker().check(path)] == expected
