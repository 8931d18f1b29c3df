"""Decoding pictures in processes of their own, which may crash, hang or want the whole memory.

`python -m phi3v.schema.decoder BYTES` reads a task a line (JSON) and answers a line each. A plain child process: it
does not import the caller's `__main__`, so that any script may check its data, nor what lies in the working folder.
"""

from __future__ import annotations

import json
import resource
import selectors
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO, Any

from phi3v.schema.images import Flaw, decode

SECONDS = 30.0  # for one picture; the largest that is allowed takes about two
MEMORY = 4 << 30  # bytes of address space: the largest picture, its file and the libraries


class Decoders:
    """Up to `jobs` decoding processes, started when they are needed.

    Args:
        jobs: how many.
        seconds: how long one task may take.
        memory: bytes of address space of a process.
        command: another program that answers as this module's does.
    """

    def __init__(
        self,
        jobs: int = 1,
        *,
        seconds: float = SECONDS,
        memory: int = MEMORY,
        command: Sequence[str] = (sys.executable, "-P", "-m", "phi3v.schema.decoder"),
    ) -> None:
        self._jobs = jobs
        self._seconds = seconds
        self._command = [*command, str(memory)]
        self._idle: list[subprocess.Popen[bytes]] = []

    def run(self, paths: Sequence[str], task: str = "decode") -> list[Any]:
        """Return the answer to each path: a list of flaws for `decode`, 64 bits or None for `fingerprint`.

        A process that dies or takes too long is replaced, and its picture has a flaw of its own.
        """
        answers: list[Any] = [None] * len(paths)
        waiting = list(enumerate(paths))[::-1]
        busy: dict[IO[bytes], tuple[subprocess.Popen[bytes], int, float]] = {}
        with selectors.DefaultSelector() as selector:
            while waiting or busy:
                while waiting and len(busy) < self._jobs:
                    number, path = waiting.pop()
                    worker = self._send([task, path])
                    assert worker.stdout is not None
                    busy[worker.stdout] = (worker, number, time.monotonic() + self._seconds)
                    selector.register(worker.stdout, selectors.EVENT_READ)
                patience = min(deadline for _, _, deadline in busy.values()) - time.monotonic()
                ready = [key.fileobj for key, _ in selector.select(max(0.0, patience))]
                for stream, (worker, number, deadline) in list(busy.items()):
                    if stream in ready or time.monotonic() >= deadline:
                        selector.unregister(stream)
                        del busy[stream]
                        answers[number] = self._receive(worker, task, late=stream not in ready)
        return answers

    def close(self) -> None:
        """End the processes."""
        while self._idle:
            worker = self._idle.pop()
            _end(worker)

    def _send(self, task: list[str]) -> subprocess.Popen[bytes]:
        worker = self._idle.pop() if self._idle else self._start()
        assert worker.stdin is not None
        try:
            worker.stdin.write(json.dumps(task).encode() + b"\n")
            worker.stdin.flush()
        except BrokenPipeError:  # it has died while idle; its answer will be that it has
            pass
        return worker

    def _receive(self, worker: subprocess.Popen[bytes], task: str, *, late: bool) -> Any:
        assert worker.stdout is not None
        line = b"" if late else worker.stdout.readline()
        if line.endswith(b"\n"):
            self._idle.append(worker)
            answer = json.loads(line)
            return [Flaw(*flaw) for flaw in answer] if task == "decode" else answer
        _end(worker)
        if task != "decode":
            return None
        return [
            Flaw("image-broken", f"takes over {self._seconds:g} s to decode")
            if late
            else Flaw("image-broken", f"crashes its decoder (exit code {worker.returncode})")
        ]

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def _end(worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    with worker:  # closes its pipes and waits for it
        pass


def main() -> None:
    """Answer tasks until there is no more."""
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from phi3v.schema.fingerprint import fingerprint

    tasks = {"decode": decode, "fingerprint": fingerprint}
    for line in sys.stdin.buffer:
        task, path = json.loads(line)
        sys.stdout.buffer.write(json.dumps(tasks[task](path)).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
