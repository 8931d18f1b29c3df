import json
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v.schema import check
from phi3v.schema.syntax import file_fault, line_fault

GOOD = '{"id": "a", "source": "s", "conversations": [{"user": "Q", "assistant": "A"}]}'


@pytest.mark.parametrize(
    ("line", "column", "message", "fix"),
    [
        ('{"a": NaN}', 7, "NaN is not JSON", "write null"),
        ('{"a": ["NaN", -Infinity]}', 15, "-Infinity is not JSON", "write null"),
        ('{"a": "\\ud800"}', 8, "half a character", "both halves"),
        ('{"a": "\\ud83d\\udea4 \\udc00"}', 21, "half a character", "both halves"),
        ('{"a": "b\tc"}', 9, "Invalid control character", "as an escape"),
        ('{"a": "b\0c"}', 9, "Invalid control character", "as an escape"),
        ("{'a': 1}", 2, "double quotes", "json.dumps"),
        ("{a: 1}", 2, "double quotes", "the name in double quotes"),
        ('{"a": 1,}', 9, "double quotes", "remove the comma"),
        ('{"a": [1,]}', 10, "Expecting value", "remove the comma"),
        ('{"a": 1} {"a": 2}', 10, "Extra data", "one record a line"),
        ('{"a": "b', 7, "Unterminated string", None),
        ('{"a": ', 7, "Expecting value", None),
        ("", 1, "an empty line", "remove the line"),
        (" \t\r", 1, "an empty line", "remove the line"),
        ("[" * 2_000, 1026, "depth limit", None),
        ('{"a": tru}', 7, "Expecting value", None),
    ],
)
def test_what_is_wrong_where_and_how_to_mend_it(line: str, column: int, message: str, fix: str | None) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(line)

    fault = line_fault(line.encode())

    assert (fault.code, fault.column) == ("json", column)
    assert message in fault.message
    assert fault.fix is None if fix is None else fix in str(fault.fix)


def test_a_byte_that_is_no_utf_8_is_counted_in_characters() -> None:
    fault = line_fault('{"a": "ä'.encode() + b"\xe9")

    assert (fault.column, fault.message) == (9, "byte 0xe9 is not UTF-8")


# What RFC 8259 leaves to the parser, and what it is here: the 35 cases of JSONTestSuite that are named i_.
@pytest.mark.parametrize(
    "line",
    [
        b"[123.456e-789]",  # a number is read as the nearest double
        b"[123e-10000000]",
        b"[-123123123123123123123123123123]",
        b"[100000000000000000000]",
        b"[-237462374673276894279832749832423479823246327846]",
        b"[" * 500 + b"]" * 500,
    ],
)
def test_what_is_taken_of_what_a_parser_may_take_or_leave(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line)

    assert {finding.code for finding in check(path)} == {"schema"}  # JSON, though no record


@pytest.mark.parametrize(
    "line",
    [
        b"[0.4e006699999999999999]",  # a number beyond all doubles
        b"[-1e+9999]",
        b"[1.5e+9999]",
        b"[-123123e100000]",
        b"[123123e100000]",
        b'{"\\uDFAA":0}',  # half a surrogate pair
        b'["\\uDADA"]',
        b'["\\uD888\\u1234"]',
        b'["\\uD800\\n"]',
        b'["\\uDd1ea"]',
        b'["\\uD800\\uD800\\n"]',
        b'["\\ud800"]',
        b'["\\ud800abc"]',
        b'["\\uDd1e\\uD834"]',
        b'["\\uDFAA"]',
        b'["\xff"]',  # not UTF-8
        b'["\xe9"]',
        b'["\x81"]',
        b'["\xf4\xbf\xbf\xbf"]',
        b'["\xc0\xaf"]',
        b'["\xfc\x83\xbf\xbf\xbf\xbf"]',
        b'["\xfc\x80\x80\x80\x80\x80"]',
        b'["\xe0\xff"]',
        b'["\xe6\x97\xa5\xd1\x88\xfa"]',
        b'["\xed\xa0\x80"]',
        '["é"]'.encode("utf-16"),
        '["é"]'.encode("utf-16-be"),
        '["é"]'.encode("utf-16-le"),
        b"\xef\xbb\xbf{}",
    ],
)
def test_what_is_left_of_what_a_parser_may_take_or_leave(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line)

    assert {finding.code for finding in check(path)} & {"json", "encoding"}


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_every_line_that_is_refused_has_words_and_a_place_in_it(line: bytes) -> None:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        fault = line_fault(line)
        assert fault.message
        assert 1 <= fault.column <= len(line.decode(errors="replace")) + 1
        assert fault.end_column > fault.column


@pytest.mark.parametrize(
    ("content", "message", "fix"),
    [
        (GOOD.encode("utf-16"), "UTF-16", "iconv -f UTF-16 "),
        (GOOD.encode("utf-16-le"), "UTF-16", "iconv -f UTF-16LE"),
        (GOOD.encode("utf-16-be"), "UTF-16", "iconv -f UTF-16BE"),
        (GOOD.encode("utf-32"), "UTF-32", "iconv -f UTF-32"),
        (b"\x1f\x8b\x08\x00", "gzip", "gzip -dc a.jsonl"),
        (b"PK\x03\x04", "zip archive", "unzip"),
        (b"\x28\xb5\x2f\xfd", "zstd", "zstd -dc"),
        (b"[\n" + GOOD.encode() + b"\n]\n", "one JSON document", "jq -c"),
        (json.dumps(json.loads(GOOD), indent=1).encode(), "one JSON document", "jq -c"),
    ],
)
def test_what_is_no_jsonl_has_one_finding_for_all_of_it(tmp_path: Path, content: bytes, message: str, fix: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)

    (finding,) = check(path)

    assert (finding.code, finding.line, finding.column, finding.excerpt) == ("encoding", 1, 1, None)
    assert message in finding.message
    assert fix in finding.fix


@pytest.mark.parametrize("content", [b"{\n", b"[\n{\n", b"[[1,2]]\n", GOOD.encode()])
def test_what_only_looks_like_it_is_read_line_by_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)

    assert file_fault(path, content.splitlines(keepends=True)[0]) is None


def test_a_byte_order_mark_does_not_hide_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace('"Q"', '""').encode())

    marked, empty = check(path)

    assert (marked.code, marked.column) == ("encoding", 1)
    assert (empty.code, empty.column) == ("schema", GOOD.index('"Q"') + 1)  # the mark is no column, as in editors
    assert empty.excerpt is not None
    assert empty.excerpt.text[empty.excerpt.start :].startswith('""')
