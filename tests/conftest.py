"""What all tests share: one copy of the package, no network but loopback, and the clips that tests draw."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

# `python -m pytest` puts the root on sys.path, where converters/ would be importable a second time beside
# phi3v.converters, with a registry of its own.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

# What a shell starts in the background ignores Ctrl-C, and hands that on to the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Two workers on two cores: more threads only get into each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Whoever starts the tests in the background has Ctrl-C ignored, for them and for every process that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# A test that forgets a local folder fails at once instead of asking the hub.
os.environ["HF_HUB_OFFLINE"] = "1"
# No test goes by the clock: a busy machine is no defect.
settings.register_profile("phi3v", deadline=None)
settings.load_profile("phi3v")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in {"127.0.0.1", "::1", "localhost"}:
            pytest.fail(f"a test connects to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The inputs that we made ourselves."""
    return ROOT / "fixtures"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real inputs beside the checkout; a test that needs them is skipped where they are not."""
    if not SHARED.is_dir():
        pytest.skip("no real inputs beside the checkout")
    return SHARED


@pytest.fixture
def draw_clip() -> Callable[..., Path]:
    """Write a video in which frame i is one grey level, 10 * i + 5, so that a test reads which frame was taken."""

    def draw(path: Path, frames: int = 12, *, codec: str = "mpeg4", size: tuple[int, int] = (32, 24)) -> Path:
        import av
        import numpy as np

        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            stream.codec_context.qmin = stream.codec_context.qmax = 1
            for number in range(frames):
                picture = np.full((size[1], size[0], 3), 10 * number + 5, dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
            container.mux(stream.encode())
        return path

    return draw


def frame_number(jpeg: bytes) -> int:
    """Return which frame of a drawn clip a JPEG shows."""
    import cv2
    import numpy as np

    picture = cv2.imdecode(np.frombuffer(jpeg, dtype=np.uint8), cv2.IMREAD_GRAYSCALE)
    return int((float(picture.mean()) - 5) / 10 + 0.5)


@pytest.fixture
def which_frame() -> Callable[[bytes], int]:
    """Tell which frame of a drawn clip a JPEG shows."""
    return frame_number


@pytest.fixture
def run() -> Callable[..., Any]:
    """Run one of our commands as a user does, in a process of its own."""
    import subprocess

    def start(name: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / name), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, **options)

    return start


@pytest.fixture
def serve() -> Iterator[Callable[[type[BaseHTTPRequestHandler]], str]]:
    """Answer requests on loopback until the test ends; returns the server's address."""
    servers: list[ThreadingHTTPServer] = []

    def start(handler: type[BaseHTTPRequestHandler]) -> str:
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def damage() -> Callable[[Path], None]:
    """Spoil a PNG's pixels: its header and its end are whole, so that only decoding it tells."""

    def spoil(path: Path) -> None:
        data = bytearray(path.read_bytes())
        start = data.index(b"IDAT") + 4
        data[start : start + 8] = b"no pixel"
        path.write_bytes(data)

    return spoil


@pytest.fixture
def grey_levels(tmp_path: Path) -> Callable[[int], Path]:
    """Make a converted folder of N pictures, of N widths, whose grey level is to be named."""

    def make(count: int) -> Path:
        from PIL import Image

        from phi3v.schema import Conversation, Turn

        folder = tmp_path / "data"
        (folder / "images").mkdir(parents=True)
        lines = []
        for number in range(count):
            Image.new("L", (40 + 20 * number, 60), 255 * number // count).save(folder / f"images/{number}.png")
            turn = Turn(user="How bright?", assistant=f"{number}", images=(f"{number}.png",))
            lines.append(Conversation(id=f"g-{number}", source="grey", turns=(turn,)).to_line())
        (folder / "grey_train.jsonl").write_text("".join(lines))
        return folder

    return make
