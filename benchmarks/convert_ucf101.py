"""Converting clips against the recipe's way: PyAV decodes every frame, Pillow writes the JPEGs at the same quality.

Clips of 320x240, 25 frames a second, MPEG-4 in AVI as UCF-101 has them, drawn here: some with a key frame each 12
frames, some with a single one. Both ways take the same frames, which is checked, and are timed in turn, one process
each; then the engine with 1 and with 2 jobs, start of the workers included, beside what two bare processes give.

    python benchmarks/convert_ucf101.py [--rounds 15] [--clips 600]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import av
import numpy as np
from PIL import Image

from phi3v.converters import Run, convert, ucf101
from phi3v.converters.images import JPEG_QUALITY, encode_jpeg
from phi3v.converters.sampling import Sampling
from phi3v.converters.video import read_frames

FRAMES, COUNT = 180, 8


def main() -> None:
    """Print each ratio, and all of them as a last line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--clips", type=int, default=600)
    arguments = parser.parse_args()
    ratios = {}
    with TemporaryDirectory() as folder:
        # Never a name again: ext4 waits for the disk where a file is written over, and so would measure the disk.
        names = (Path(folder) / str(number) for number in count())
        for name, interval in (("key_frame_each_12", 12), ("single_key_frame", FRAMES)):
            clips = [draw(Path(folder) / name / f"{n}.avi", seed=n, interval=interval) for n in range(6)]
            check_equal(clips[0])
            both = partial(recipe, clips, names), partial(ours, clips, names)
            ratios[name], ratios[f"{name}_cpu"] = compare(*both, arguments.rounds)
            print(f"{name}: {ratios[name]} times as fast as the recipe's way, {ratios[f'{name}_cpu']} in CPU time")
        source = Path(folder) / "many"
        (source / "train" / "Drawn").mkdir(parents=True)
        for number in range(arguments.clips):
            shutil.copy(clips[number % len(clips)], source / "train" / "Drawn" / f"{number:04}.avi")
        rounds = max(3, arguments.rounds // 3)
        ratios["two_jobs"], _ = compare(partial(whole, source, names, 1), partial(whole, source, names, 2), rounds)
        ratios["two_bare_processes"], _ = compare(partial(bare, 1), partial(bare, 2), rounds)
        print(f"two jobs: {ratios['two_jobs']} times as fast as one; the machine gives {ratios['two_bare_processes']}")
    print(json.dumps(ratios))


def bare(processes: int) -> None:
    """Share one piece of pure arithmetic among processes: what a second process can give on this machine now."""
    code = f"sum(i * i for i in range({60_000_000 // processes}))"
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(processes)]
    for process in running:
        process.wait()


def draw(path: Path, *, seed: int, interval: int, frames: int = FRAMES) -> Path:
    """Write a clip of moving texture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (31, 41, 3), dtype=np.uint8)
    texture = np.asarray(Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 320, 240, "yuv420p", 600_000
        stream.codec_context.gop_size = interval
        stream.codec_context.max_b_frames = 0
        # As Xvid does: no key frame at a change of scene, which would cut the interval.
        stream.codec_context.options = {"sc_threshold": "1000000000"}
        for number in range(frames):
            left, top = number % 320, (number * 2) % 240
            view = np.ascontiguousarray(texture[top : top + 240, left : left + 320])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        container.mux(stream.encode())
    return path


def recipe(clips: list[Path], names: Iterator[Path]) -> None:
    """Convert as the recipe does."""
    for clip in clips:
        for frame, name in zip(recipe_frames(clip), names):  # noqa: B905  # names never end
            Image.fromarray(frame).save(name, "JPEG", quality=JPEG_QUALITY)


def recipe_frames(clip: Path) -> list[np.ndarray]:
    """Decode every frame, and return those at even distances."""
    with av.open(str(clip)) as container:
        total = container.streams.video[0].frames
        wanted = set(np.arange(0, total, total / COUNT).astype(int))
        return [frame.to_ndarray(format="rgb24") for i, frame in enumerate(container.decode(video=0)) if i in wanted]


def ours(clips: list[Path], names: Iterator[Path]) -> None:
    """Convert as `render` does, and write the files, too."""
    for clip in clips:
        for frame, name in zip(read_frames(clip, Sampling(count=COUNT)).frames, names):  # noqa: B905
            name.write_bytes(encode_jpeg(frame))


def check_equal(clip: Path) -> None:
    """Both ways take the same pictures, and JPEGs of them differ by no more than two encoders do."""
    sampled = read_frames(clip, Sampling(count=COUNT)).frames
    for mine, theirs in zip(sampled, recipe_frames(clip), strict=True):
        # RGB and BGR are converted by different code in swscale, which rounds by 1 otherwise.
        assert np.abs(mine[..., ::-1].astype(int) - theirs).max() <= 2


def whole(source: Path, names: Iterator[Path], jobs: int) -> None:
    """Run the engine, start of its workers included."""
    options = ucf101.Options(src_dir=source, num_frames=COUNT)
    for _ in convert("ucf101", options, out_dir=next(names), run=Run(jobs=jobs)):
        pass


def compare(base: Callable[[], None], other: Callable[[], None], rounds: int) -> tuple[float, float]:
    """Return how many times as fast `other` is, by the clock and in CPU time of this process.

    Medians of rounds in which both run in turn, since the machine is shared.
    """
    base(), other()  # type: ignore[func-returns-value]  # caches
    pairs = [(seconds(base), seconds(other)) for _ in range(rounds)]
    return tuple(round(median(one[i] / two[i] for one, two in pairs), 2) for i in (0, 1))  # type: ignore[return-value]


def seconds(action: Callable[[], None]) -> tuple[float, float]:
    """Time one run, by the clock and in CPU time."""
    start, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - start, time.process_time() - cpu


if __name__ == "__main__":
    main()
