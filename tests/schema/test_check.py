import json
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from phi3v.schema import CODES, Checker, UserError, check
from phi3v.schema.check import jsonl_files
from phi3v.schema.contract import fits_schema, schema_breaches, schema_text

FIXTURES = Path(__file__).parents[2] / "fixtures"
RECORD = '{"id": "a", "source": "s", "conversations": [{"images": ["x/a.jpg"], "user": "Q", "assistant": "A"}]}\n'


def draw(path: Path) -> None:
    Image.new("RGB", (20, 20)).save(path)


@pytest.mark.parametrize("path", sorted((FIXTURES / "valid").glob("*.jsonl")), ids=lambda path: path.stem)
def test_valid_example_has_no_finding(path: Path) -> None:
    assert list(check(path)) == []


@pytest.mark.parametrize("path", sorted((FIXTURES / "invalid").glob("*.jsonl")), ids=lambda path: path.stem)
def test_invalid_example_gives_exactly_its_finding(path: Path) -> None:
    assert [finding.code for finding in check(path)] == [path.name.split(".")[0]]


def test_every_code_has_an_example_or_a_test_of_its_own() -> None:
    shown = {path.name.split(".")[0] for path in (FIXTURES / "invalid").glob("*.jsonl")}

    elsewhere = {code for code in CODES if code.startswith(("image-", "leak-"))} | {"too-long", "maybe-too-long"}

    assert shown | elsewhere == set(CODES)


@pytest.mark.parametrize(
    ("name", "line", "column", "pointer"),
    [
        ("duplicate-id.same_file", 3, 8, "/id"),
        ("schema.empty_answer", 1, 84, "/conversations/0/assistant"),
        ("schema.path_upwards", 1, 66, "/conversations/0/images/0"),
        ("json.cut_line", 2, 61, ""),
        ("json.not_utf8", 1, 97, ""),
        ("control-token.sentence_end_in_answers", 1, 106, "/conversations/0/answers/1"),
    ],
)
def test_a_finding_names_the_place(name: str, line: int, column: int, pointer: str) -> None:
    (finding,) = check(FIXTURES / "invalid" / f"{name}.jsonl")

    assert (finding.line, finding.column, finding.pointer) == (line, column, pointer)


def test_a_finding_reads_as_compilers_write() -> None:
    path = FIXTURES / "invalid" / "schema.empty_answer.jsonl"

    (finding,) = check(path)

    assert str(finding) == f'{path}:1:84: schema: /conversations/0/assistant: "" is shorter than 1 character'
    assert finding.fix


def test_columns_count_characters_not_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "ääää", "source": "", "conversations": [{"user": "Q"}]}\n', encoding="utf-8")

    (finding,) = check(path)

    assert finding.column == 26


def test_an_image_must_be_below_the_root(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(RECORD)
    outside = tmp_path / "outside.jpg"
    outside.touch()
    (tmp_path / "images" / "x").mkdir(parents=True)
    (tmp_path / "images" / "x" / "a.jpg").symlink_to(outside)

    assert [finding.code for finding in check(path)] == ["image-outside"]


def test_a_link_inside_the_root_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(RECORD)
    (tmp_path / "images" / "x").mkdir(parents=True)
    draw(tmp_path / "images" / "b.jpg")
    (tmp_path / "images" / "x" / "a.jpg").symlink_to("../b.jpg")

    assert list(check(path)) == []


def test_the_image_root_can_be_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(RECORD)
    (tmp_path / "elsewhere" / "x").mkdir(parents=True)
    draw(tmp_path / "elsewhere" / "x" / "a.jpg")

    assert list(check(path, image_root=tmp_path / "elsewhere")) == []


def test_a_folder_is_not_an_image(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(RECORD)
    (tmp_path / "images" / "x" / "a.jpg").mkdir(parents=True)

    assert [finding.message for finding in check(path)] == [f'"x/a.jpg" is not a file below {tmp_path / "images"}']


def test_images_can_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(RECORD)

    assert list(check(path, images="none")) == []


def test_ids_are_unique_over_all_that_one_checker_sees(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text('{"id": "x", "source": "s", "conversations": [{"user": "Q"}]}\n')
    checker = Checker()

    found = [finding for name in ("a", "b") for finding in checker.check(tmp_path / f"{name}.jsonl")]

    assert [finding.message for finding in found] == [f"id 'x' is also on line 1 of {tmp_path / 'a.jsonl'}"]
    assert checker.records == 2


def test_one_bad_line_does_not_hide_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    bad = ['{"id": 1}', "{", RECORD.strip(), "[]", ""]
    path.write_text("\n".join(bad) + "\n")

    found = Counter(finding.line for finding in check(path))

    assert sorted(found) == [1, 2, 3, 4, 5]


def test_a_long_value_is_quoted_in_part(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"id": ["x" * 10_000], "source": "s", "conversations": [{"user": "Q"}]}) + "\n")

    (finding,) = check(path)

    assert len(finding.message) < 120


@pytest.mark.parametrize(
    ("line", "code", "column"),
    [
        ('{"id":"a","source":"Grüße"}'.encode("utf-16"), "encoding", 1),
        (b'{"id": "\xed\xa0\x80\xff"}', "json", 9),
        (RECORD.replace("}]}", '}], "metadata": {"x": ' + "9" * 5000 + "}}").encode(), "json", None),
        (RECORD.replace('"Q"', '"<|image_' + "9" * 5000 + '|>"').encode(), "image-tag", 78),
        (RECORD.replace("a.jpg", "a.jpg\\n").encode(), "schema", 58),
        (RECORD.replace('"a",', "[" * 990 + "]" * 990 + ",").encode(), "schema", None),
        (RECORD.replace("a.jpg", "a" * 300 + ".jpg").encode(), "image-missing", 58),
        (b"   \r", "json", 1),
    ],
    ids=["utf-16", "surrogate", "digits", "tag", "line feed", "deep", "long name", "blank"],
)
def test_hostile_lines_are_findings_not_tracebacks(tmp_path: Path, line: bytes, code: str, column: int | None) -> None:
    (tmp_path / "images" / "x").mkdir(parents=True)
    draw(tmp_path / "images" / "x" / "a.jpg")
    path = tmp_path / "a.jsonl"
    path.write_bytes(line.rstrip(b"\n") + b"\n" + RECORD.replace('"a"', '"b"').encode())

    found = [finding for finding in check(path) if finding.line == 1]

    assert found[0].code == code
    assert column in {None, found[0].column}
    assert len(found[0].message) < 200


def test_findings_of_a_line_come_from_left_to_right(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    turns = [{"user": "Q", "assistant": "A"} for _ in range(12)]
    turns[2]["user"] = turns[10]["user"] = turns[11]["assistant"] = ""
    path.write_text(json.dumps({"id": "a", "source": "s", "conversations": turns}) + "\n")

    columns = [finding.column for finding in check(path)]

    assert columns == sorted(columns)
    assert len(columns) == 3


def test_a_deep_line_is_a_finding_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("[" * 100_000)

    assert [finding.code for finding in check(path)] == ["json"]


# Of the files that a parser may take or leave, those that are JSON here: a number is as near as a double comes.
TAKEN = {
    "i_number_double_huge_neg_exp", "i_number_real_underflow", "i_number_too_big_neg_int", "i_number_too_big_pos_int",
    "i_number_very_big_negative_int", "i_structure_500_nested_arrays",
}  # fmt: skip


def test_json_test_suite_verdicts(shared: Path, tmp_path: Path) -> None:
    """y_ files are JSON (though no record), n_ files are not; each file is checked as one line.

    Without the suite beside the checkout, this would have shown it for each of its files.
    """
    verdicts = {}
    for file in (shared / "realdata" / "malformed_json" / "test_parsing").glob("*.json"):
        if b"\n" in (content := file.read_bytes()).strip():
            continue  # several lines, hence several records here
        (tmp_path / "a.jsonl").write_bytes(content)
        codes = {finding.code for finding in check(tmp_path / "a.jsonl")}
        verdicts[file.stem] = "refused" if codes & {"json", "encoding", "empty-file"} else "taken"
        assert codes, "none of them is a record"

    assert len(verdicts) > 180
    expected = {name: "taken" if name[0] == "y" or name in TAKEN else "refused" for name in verdicts}
    assert verdicts == expected


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_a_user_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(RECORD)
    path.chmod(0)

    with pytest.raises(UserError, match="cannot read"):
        list(check(path))


def test_a_missing_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read it"):
        list(check(tmp_path / "nowhere.jsonl"))


def test_a_folder_without_data_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / ".a.jsonl.tmp").touch()
    (tmp_path / ".a.jsonl").touch()

    with pytest.raises(UserError, match="no .jsonl"):
        jsonl_files(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
NEARLY_A_TURN = st.fixed_dictionaries(
    {},
    optional={
        "user": st.text(max_size=3) | JSON,
        "assistant": st.text(max_size=3) | JSON,
        "images": st.lists(st.text(alphabet="a./\\\x00\n\t\x1f~é", max_size=6), max_size=2) | JSON,
        "answers": st.lists(st.text(max_size=2), max_size=2) | JSON,
        "x": JSON,
    },
)
NEARLY_A_RECORD = st.fixed_dictionaries(
    {},
    optional={
        "id": st.text(max_size=3) | JSON,
        "source": st.text(max_size=3) | JSON,
        "system": st.text(max_size=3) | JSON,
        "conversations": st.lists(NEARLY_A_TURN | JSON, max_size=3) | JSON,
        "metadata": JSON,
        "x": JSON,
    },
)


@given(NEARLY_A_RECORD | JSON)
def test_the_fast_and_the_wordy_validator_agree(record: object) -> None:
    import jsonschema_rs
    from jsonschema import Draft202012Validator

    schema = json.loads(schema_text())
    fast = jsonschema_rs.Draft202012Validator(schema).is_valid(record)

    assert fast == Draft202012Validator(schema).is_valid(record) == fits_schema(record)
    assert fast or schema_breaches(record)


def test_they_agree_on_every_line_of_the_fixtures() -> None:
    from jsonschema import Draft202012Validator

    wordy = Draft202012Validator(json.loads(schema_text()))
    records = []
    for path in FIXTURES.rglob("*.jsonl"):
        for line in path.read_bytes().splitlines():
            with suppress(ValueError, RecursionError):
                records.append(json.loads(line))

    assert len(records) > 40
    assert [fits_schema(record) for record in records] == [wordy.is_valid(record) for record in records]
