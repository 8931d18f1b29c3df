"""Fetching from a hub of our own on loopback, in processes of their own: huggingface_hub reads its environment once."""

from __future__ import annotations

import hashlib
import os
import random
import tarfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from phi3v.converters.download import fetch
from phi3v.schema import UserError

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """The two answers of the hub that a download of one file needs."""

    content = b""
    seen: list[str] = []

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.seen.append(f"{self.command} {self.path}")
        if not self.path.endswith("/resolve/main/UCF101_subset.tar.gz") and REVISION not in self.path:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.end_headers()
        if body:
            self.wfile.write(self.content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(fixtures: Path, tmp_path: Path, serve: Callable[[type[BaseHTTPRequestHandler]], str]) -> str:
    archive = tmp_path / "hub.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for clip in ("train/BlueBouncing/v_BlueBouncing_g01_c01.avi", "test/RedSpinning/v_RedSpinning_g27_c01.avi"):
            tar.add(fixtures / "ucf101" / clip, f"UCF101_subset/{clip}")
    Hub.content = archive.read_bytes()
    Hub.seen = []
    return serve(Hub)


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", **more}


def test_without_a_source_the_subset_is_fetched(run: Callable[..., Any], hub: str, tmp_path: Path) -> None:
    done = run(
        "phi3v-data", "convert", "ucf101", "--out_dir", tmp_path / "out", env=environment(tmp_path, HF_ENDPOINT=hub)
    )

    assert done.returncode == 0, done.stderr
    assert any("/datasets/sayakpaul/ucf101-subset/" in request for request in Hub.seen)
    assert (tmp_path / "out/ucf101_train.jsonl").read_text().startswith('{"id": "train-0000000000", "source": "ucf101"')
    assert (tmp_path / "out/ucf101_test.jsonl").read_text().startswith('{"id": "test-0000000001"')
    assert len(list((tmp_path / "out/images").rglob("*.jpg"))) == 16


@pytest.mark.parametrize(
    "more",
    [
        {"HF_HUB_OFFLINE": "1"},
        pytest.param({"HF_ENDPOINT": "http://127.0.0.1:9"}, marks=pytest.mark.slow),  # huggingface_hub tries five times
    ],
)
def test_offline_the_error_says_how_to_get_it_by_hand(
    run: Callable[..., Any], tmp_path: Path, more: dict[str, str]
) -> None:
    done = run("phi3v-data", "convert", "ucf101", "--out_dir", tmp_path / "out", env=environment(tmp_path, **more))

    assert done.returncode == 2
    assert ("error: cannot fetch UCF101_subset.tar.gz from the hub's sayakpaul/ucf101-subset") in done.stderr
    assert "fix: download UCF101_subset.tar.gz" in done.stderr
    assert "--src_dir" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------------------------------------- plain addresses


class Server(BaseHTTPRequestHandler):
    """One file, in pieces: it hangs up after `cut` bytes of an answer, and may not know of ranges."""

    content = random.Random(1).randbytes(100_000)
    cut = 0
    ranges = True
    broken = 0
    seen: list[str | None] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.seen.append(wanted)
        if self.path == "/broken" and len(self.seen) <= Server.broken:
            self.send_error(503)
            return
        if self.path == "/absent":
            self.send_error(404)
            return
        start = int(wanted.split("=")[1].rstrip("-")) if wanted and self.ranges else 0
        if start >= len(self.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start : start + self.cut] if self.cut else self.content[start:])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(serve: Callable[..., str]) -> str:
    Server.cut, Server.ranges, Server.broken, Server.seen = 0, True, 0, []
    return serve(Server)


SUM = hashlib.sha256(Server.content).hexdigest()


def test_a_file_is_fetched_once_and_its_checksum_checked(server: str, tmp_path: Path) -> None:
    for _ in range(2):
        path = fetch(f"{server}/a", tmp_path / "sub/a", sha256=SUM, by_hand="-")

    assert path.read_bytes() == Server.content
    assert Server.seen == [None]
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["a"]


def test_a_download_that_breaks_off_goes_on_where_it_was(server: str, tmp_path: Path) -> None:
    Server.cut = 20_000
    with pytest.raises(UserError, match="IncompleteRead"):
        fetch(f"{server}/a", tmp_path / "a", sha256=SUM, by_hand="-")
    assert [path.name for path in tmp_path.iterdir()] == ["a.part"]
    Server.cut = 0

    fetched = fetch(f"{server}/a", tmp_path / "a", sha256=SUM, by_hand="-")

    assert fetched.read_bytes() == Server.content
    assert Server.seen == [None, "bytes=20000-", "bytes=40000-", "bytes=60000-"]


def test_a_server_without_ranges_is_asked_for_all_of_it(server: str, tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(b"an older half")
    Server.ranges = False

    assert fetch(f"{server}/a", tmp_path / "a", sha256=SUM, by_hand="-").read_bytes() == Server.content


def test_a_part_that_is_the_whole_file_is_fetched_again(server: str, tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(Server.content)

    assert fetch(f"{server}/a", tmp_path / "a", by_hand="-").read_bytes() == Server.content
    assert Server.seen == ["bytes=100000-", None]


def test_a_wrong_checksum_leaves_nothing(server: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"gave a file with SHA-256 {SUM}, not {'0' * 64}"):
        fetch(f"{server}/a", tmp_path / "a", sha256="0" * 64, by_hand="-")

    assert list(tmp_path.iterdir()) == []


def test_a_server_that_stumbles_is_asked_again(server: str, tmp_path: Path) -> None:
    Server.broken = 2

    assert fetch(f"{server}/broken", tmp_path / "a", by_hand="-").read_bytes() == Server.content
    assert len(Server.seen) == 3


@pytest.mark.parametrize(
    ("address", "asked"), [("{server}/absent", 1), ("http://127.0.0.1:9/a", 0), ("file:///etc/passwd", 0)]
)
def test_what_cannot_be_reached_is_told_with_the_way_out(server: str, tmp_path: Path, address: str, asked: int) -> None:
    with pytest.raises(UserError, match="cannot fetch|is no http address") as caught:
        fetch(address.format(server=server), tmp_path / "a", by_hand="get it by hand")

    assert caught.value.fix == "get it by hand"
    assert len(Server.seen) == asked
    assert not (tmp_path / "a").exists()


def test_a_gated_data_set_says_where_to_apply(
    run: Callable[..., Any], serve: Callable[..., str], tmp_path: Path
) -> None:
    class Gate(BaseHTTPRequestHandler):
        tokens: list[str | None] = []

        def do_HEAD(self) -> None:
            self.tokens.append(self.headers.get("Authorization"))
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    address = serve(Gate)

    done = run(
        "phi3v-data", "convert", "ucf101", "--out_dir", tmp_path / "out",
        env=environment(tmp_path, HF_ENDPOINT=address, HF_TOKEN="hf_mine"),
    )  # fmt: skip

    assert done.returncode == 2
    assert "the hub's sayakpaul/ucf101-subset is gated, and you are not let in" in done.stderr
    assert f"fix: apply at {address}/datasets/sayakpaul/ucf101-subset" in done.stderr
    assert Gate.tokens == ["Bearer hf_mine"]


def test_what_is_larger_than_expected_is_given_up(server: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="/file gives more than 70000 bytes"):
        fetch(f"{server}/file", tmp_path / "file", most=70_000, by_hand="x")

    assert not (tmp_path / "file").exists()
    assert fetch(f"{server}/file", tmp_path / "other", most=100_000, by_hand="x").stat().st_size == 100_000
