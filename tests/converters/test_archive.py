from __future__ import annotations

import io
import random
import tarfile
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phi3v.converters.archive import Limits, unpack
from phi3v.schema import UserError


def archive(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            if member.isreg():
                member.size = 4
            tar.addfile(member, io.BytesIO(b"data"))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


def test_files_are_unpacked(tmp_path: Path) -> None:
    made = archive(tmp_path / "a.tar.gz", member("top", tarfile.DIRTYPE), member("top/b/c.avi"), member("./d.avi"))

    unpack(made, tmp_path / "out")

    assert (tmp_path / "out/top/b/c.avi").read_bytes() == b"data"
    assert (tmp_path / "out/d.avi").read_bytes() == b"data"


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil"])
def test_a_name_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    made = archive(tmp_path / "a.tar.gz", member(name))

    with pytest.raises(UserError, match="leads outside"):
        unpack(made, tmp_path / "out")

    assert not (tmp_path / "evil").exists()


def test_links_and_devices_are_left_out(tmp_path: Path) -> None:
    made = archive(
        tmp_path / "a.tar.gz",
        member("link", tarfile.SYMTYPE, "/etc/passwd"),
        member("hard", tarfile.LNKTYPE, "file"),
        member("pipe", tarfile.FIFOTYPE),
        member("file"),
    )

    unpack(made, tmp_path / "out")

    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]


def test_a_file_below_a_link_does_not_follow_it(tmp_path: Path) -> None:
    made = archive(tmp_path / "a.tar.gz", member("link", tarfile.SYMTYPE, str(tmp_path)), member("link/evil"))

    unpack(made, tmp_path / "out")

    assert not (tmp_path / "evil").exists()
    assert (tmp_path / "out/link/evil").exists()


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_damaged_archive_is_named(tmp_path: Path, content: bytes | None) -> None:
    whole = archive(tmp_path / "whole.tar.gz", member("a"), member("b")).read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(whole[:-20] if content is None else content)

    with pytest.raises(UserError, match="cannot unpack it"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")


def test_a_flipped_byte_is_noticed(tmp_path: Path) -> None:
    """By the checksum at the archive's end, even where the content does not compress."""
    noise = random.Random(0).randbytes(50_000)
    (tmp_path / "noise").write_bytes(noise)
    with tarfile.open(tmp_path / "whole.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "noise", "noise")
    whole = (tmp_path / "whole.tar.gz").read_bytes()

    for place in range(100, len(whole) - 8, 997):
        (tmp_path / "a.tar.gz").write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(UserError, match="cannot unpack it"):
            unpack(tmp_path / "a.tar.gz", tmp_path / f"out{place}")


# --------------------------------------------------------------------------------------------- other kinds, and limits


def packed(path: Path, content: dict[str, bytes]) -> Path:
    """Write an archive of the kind that its name says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, data in content.items():
                opened.writestr(name, data)
        return path
    mode = {".tar": "w", ".gz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}[path.suffix]
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


KINDS = ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_told_by_its_content(tmp_path: Path, kind: str) -> None:
    made = packed(tmp_path / kind, {"a/b.txt": b"one", "c.txt": b"two"})
    plain = made.rename(tmp_path / "download")

    unpack(plain, tmp_path / "out")

    assert (tmp_path / "out/a/b.txt").read_bytes() == b"one"
    assert (tmp_path / "out/c.txt").read_bytes() == b"two"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/etc/evil", "..\\evil", "C:evil", "../out-evil/x", "./../out-evil/x"]
)
def test_no_kind_lets_a_name_out(tmp_path: Path, kind: str, name: str) -> None:
    """Not into a sibling whose name begins alike, either."""
    made = packed(tmp_path / kind, {name: b"evil"})

    with pytest.raises(UserError, match="leads outside"):
        unpack(made, tmp_path / "out")

    assert sorted(path.name for path in tmp_path.iterdir()) in ([kind], [kind, "out"])


def test_a_link_in_a_zip_is_left_out(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        opened.writestr(link, "/etc/passwd")
        opened.writestr("link/evil", b"evil")

    unpack(tmp_path / "a.zip", tmp_path / "out")

    assert not (tmp_path / "out/link").is_symlink()
    assert (tmp_path / "out/link/evil").read_bytes() == b"evil"


def test_nothing_is_written_through_a_link_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a").symlink_to(tmp_path / "target")

    with pytest.raises(UserError, match="would overwrite a"):
        unpack(packed(tmp_path / "a.zip", {"a": b"evil"}), tmp_path / "out")

    assert not (tmp_path / "target").exists()


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    made = archive(tmp_path / "a.tar.gz", member("a"), member("./a"))

    with pytest.raises(UserError, match="'./a' would overwrite a|'a' would overwrite a"):
        unpack(made, tmp_path / "out")


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
def test_a_file_that_is_also_a_folder_is_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    made = archive(tmp_path / "a.tar.gz", *map(member, names))

    with pytest.raises(UserError, match=f"'{names[1]}' would overwrite {names[1][-1]}"):
        unpack(made, tmp_path / "out")


def test_an_archive_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.zip: no such archive"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_a_bomb_is_stopped_by_what_comes_out_of_it(tmp_path: Path, kind: str) -> None:
    made = packed(tmp_path / kind, {f"{number}": bytes(4_000_000) for number in range(10)})
    assert made.stat().st_size < 100_000
    limits = Limits(free=1_000_000)

    with pytest.raises(UserError, match="unpacks to more than 200 times its size"):
        unpack(made, tmp_path / "out", limits=limits)

    # One piece past the limit at most.
    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) <= 200 * made.stat().st_size + (1 << 20)


def test_the_limits_on_count_and_size(tmp_path: Path) -> None:
    made = packed(tmp_path / "a.zip", {str(number): b"12345" for number in range(10)})

    unpack(made, tmp_path / "good", limits=Limits(files=10, size=50))
    with pytest.raises(UserError, match="more than 9 files"):
        unpack(made, tmp_path / "many", limits=Limits(files=9))
    with pytest.raises(UserError, match="more than 49 bytes"):
        unpack(made, tmp_path / "large", limits=Limits(size=49))


def test_a_member_with_a_password_is_told(tmp_path: Path) -> None:
    content = bytearray(packed(tmp_path / "a.zip", {"a": b"secret"}).read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] |= 1  # the flag that says so
    (tmp_path / "a.zip").write_bytes(content)

    with pytest.raises(UserError, match="password"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_archive_ends_in_a_named_error_and_never_outside(
    tmp_path: Path, kind: str, data: st.DataObject
) -> None:
    content = bytearray(
        packed(tmp_path / kind, {"a/b": random.Random(0).randbytes(3000), "c": b"c" * 999}).read_bytes()
    )
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    (folder / kind).write_bytes(content)

    with suppress(UserError):
        unpack(folder / kind, folder / "out")

    assert {path.name for path in folder.iterdir()} <= {kind, "out"}
