from pathlib import Path

import pytest

from phi3v.schema.jsonl import atomic_write, line_offsets, read_line_at, read_lines


def test_lines_have_numbers_and_offsets(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes("ä\n\nc".encode())

    assert list(read_lines(path)) == [(1, 0, "ä".encode()), (2, 3, b""), (3, 4, b"c")]


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('"\u2028\x0b\x85"\r\n'.encode())

    assert [line.data for line in read_lines(path)] == ['"\u2028\x0b\x85"\r'.encode()]


def test_a_line_is_found_by_its_offset(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [("x" * number).encode() for number in (3, 0, 10_000, 1)]
    path.write_bytes(b"\n".join(lines) + b"\n")

    offsets = line_offsets(path)

    assert [read_line_at(path, offset) for offset in reversed(offsets)] == list(reversed(lines))
    assert offsets.itemsize == 8


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"

    with atomic_write(path) as file:
        file.write(b"1")
        assert not path.exists()

    assert path.read_bytes() == b"1"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"old")

    with pytest.raises(error), atomic_write(path) as file:
        file.write(b"new")
        raise error

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
