from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v.schema.jsonl import atomic_write, line_offsets, read_block, read_blocks, read_line_at, read_lines, spans


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


LINES = st.lists(st.binary(max_size=9).map(lambda data: data.replace(b"\n", b"")), max_size=12)


@given(LINES, st.booleans(), st.integers(1, 20))
def test_blocks_and_spans_hold_each_line_once(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], ended: bool, size: int
) -> None:
    path = tmp_path_factory.mktemp("spans") / "a.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n" * (ended and bool(lines)))
    expected = [line + b"\n" for line in path.read_bytes().split(b"\n")]
    expected[-1] = expected[-1].removesuffix(b"\n")
    expected = [line for line in expected if line]

    blocks = list(read_blocks(path, size=size))
    parts = [list(read_blocks(path, span, size=size)) for span in spans(path, size)]

    assert [line for block in blocks for line in block.lines] == expected
    assert [line for part in parts for block in part for line in block.lines] == expected
    numbers = [block.number + index for block in blocks for index in range(len(block.lines))]
    assert numbers == list(range(1, len(expected) + 1))
    for block in blocks + [block for part in parts for block in part]:
        assert read_block(path, block.offset, len(block.lines)) == block.lines


def test_a_line_may_be_longer_than_a_block(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"x" * 10_000_000 + b"\ny\n")

    assert [len(line) for block in read_blocks(path) for line in block.lines] == [10_000_001, 2]
    assert len(list(spans(path, 4096))) == 2
