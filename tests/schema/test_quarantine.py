import base64
import json
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v.schema import Finding, UserError, check
from phi3v.schema.quarantine import quarantine

GOOD = b'{"id": "%d", "source": "s", "conversations": [{"user": "Q", "assistant": "A"}]}'
BAD = st.sampled_from([b"{", b"", b"\xff\xfe", b'{"id": 1}', b"[]", GOOD % 0, b"\xc3\xa4\r"])


def errors_of(path: Path) -> dict[int, list[Finding]]:
    found = defaultdict(list)
    for finding in check(path):
        found[finding.line].append(finding)
    return found


def content(row: dict[str, str]) -> bytes:
    return base64.b64decode(row["base64"]) if "base64" in row else row["text"].encode()


@given(st.lists(BAD | st.integers(1, 99).map(lambda number: GOOD % number), min_size=1, max_size=12), st.booleans())
def test_kept_and_rejected_are_what_was_read(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], ended: bool
) -> None:
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    path.write_bytes(b"{}\n" + b"\n".join(lines) + b"\n" * (ended or not lines[-1]))
    before = path.read_bytes().split(b"\n")
    before.pop() if before[-1] == b"" else None

    split = quarantine(path, errors_of(path))

    kept = path.read_bytes().split(b"\n")[:-1]
    rows = [json.loads(line) for line in split.aside.read_bytes().splitlines()]
    assert (len(kept), len(rows)) == (split.kept, split.rejected)
    merged: dict[int, bytes] = {row["line"]: content(row) for row in rows}
    rest = iter(kept)
    assert [merged.get(number) if number in merged else next(rest) for number in range(1, len(before) + 1)] == before
    assert all(row["findings"] for row in rows)
    assert list(check(path)) == [] or not kept


def test_a_second_run_adds_to_what_was_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{\n" + GOOD % 1 + b"\n")
    quarantine(path, errors_of(path))
    assert quarantine(path, errors_of(path)).rejected == 0
    path.write_bytes(path.read_bytes() + b"[\n")

    split = quarantine(path, errors_of(path))

    assert [json.loads(line)["text"] for line in split.aside.read_text().splitlines()] == ["{", "["]
    assert path.read_bytes() == GOOD % 1 + b"\n"


def test_a_file_without_errors_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD % 1)  # without a line feed at its end

    split = quarantine(path, {})

    assert (split.kept, split.rejected, split.aside.exists()) == (1, 0, False)
    assert path.read_bytes() == GOOD % 1


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """/dev/full takes nothing: what is put aside is written there, through a link, as on a disk without room."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{\n" + GOOD % 1 + b"\n")
    before = path.read_bytes()
    (tmp_path / ".a.rejected.jsonl.tmp").symlink_to("/dev/full")

    with pytest.raises(UserError, match="cannot write here"):
        quarantine(path, errors_of(path))

    assert path.read_bytes() == before
    assert sorted(name.name for name in tmp_path.iterdir()) == ["a.jsonl"]
