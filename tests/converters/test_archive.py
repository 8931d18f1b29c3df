import io
import random
import tarfile
from pathlib import Path

import pytest

from phi3v.converters.archive import unpack
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
