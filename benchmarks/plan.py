"""Planning a run: how fast pictures are measured, and how even the work of the processes is.

- `images_per_s`: the headers that a dry run reads, everything that it does with a record included (the check of its
  line, its texts' tokens, how it fits), from files in the cache; over `Image.open` alone, in turns in one process.
- `now`: what the slowest process of a step does more than the mean of all, in percent, the mean over 200 steps;
  `before`: the same with samples dealt as they came, and packs by their tokens alone, as few as first fit finds.
  `rounds_...` are the same where processes meet in every forward (ZeRO, FSDP): the sum over forwards of the slowest,
  over the mean. Work is in multiplications of the released model, by `Sizes.work`; the mix is texts, memes and pages at
  16 crops, and clips of 8 frames at 4.

Run: .venv/bin/python benchmarks/plan.py     (the last line is JSON)
"""

from __future__ import annotations

import heapq
import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from phi3v.schema import Conversation, Turn
from phi3v.schema.tokens import image_pictures, image_tokens
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.machine import Machine
from phi3v.trainer.model.tiny import tiny_processor
from phi3v.trainer.packing import Pack, Sizes, divide, pack
from phi3v.trainer.plan import plan

ROUNDS, STEPS = 5, 200
SETS = {"pages": ((1700, 2200), 1, 2000), "clips of 8 frames": ((320, 240), 8, 400)}  # size, images, records
KINDS = {"text": (0, 0, 0, 1), "meme": (550, 400, 1, 16), "page": (1700, 2200, 1, 16), "clip": (320, 240, 8, 4)}
SHARES = (3, 4, 4, 2)
Dealt = list[tuple[Pack, ...]]


def write(folder: Path, size: tuple[int, int], images: int, count: int) -> list[Path]:
    """Write records of JPEGs, each with a question of its own; return the pictures."""
    (folder / "images").mkdir(parents=True)
    lines, paths = [], []
    for number in range(count):
        names = tuple(f"{number}.{image}.jpg" for image in range(images))
        for name in names:
            paths.append(folder / "images" / name)
            Image.new("RGB", size, (number % 256, 90, 10)).save(paths[-1], quality=50)
        turn = Turn(user=f"What is the date on page {number}?", assistant=f"{number}", images=names)
        lines.append(Conversation(id=str(number), source="s", turns=(turn,)).to_line())
    (folder / "s_train.jsonl").write_text("".join(lines))
    return paths


def headers(folder: Path, paths: list[Path]) -> dict[str, float]:
    """Return images a second of a plan, and its time over that of opening the pictures."""
    config = TrainConfig(data_dir=folder, model_name_or_path="tiny")
    processor = tiny_processor()

    def ours() -> None:
        for _ in plan(config, Machine("fp32", "sdpa", ""), processor=processor):
            pass

    def pillow() -> None:
        for path in paths:
            with Image.open(path) as picture:
                assert picture.size

    times: dict[Callable[[], None], list[float]] = {ours: [], pillow: []}
    for _ in range(ROUNDS + 1):  # the first warms up
        for work, taken in times.items():
            taken.append(_seconds(work))
    ratio = statistics.median(a / b for a, b in zip(times[ours][1:], times[pillow][1:], strict=True))
    return {
        "images_per_s": round(len(paths) / statistics.median(times[ours][1:])),
        "over_open": round(ratio, 2),
    }


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def mix(count: int, chance: random.Random) -> Sizes:
    """Return the sizes of so many samples."""
    tokens, pictures = [], []
    for kind in chance.choices(list(KINDS), SHARES, k=count):
        width, height, images, crops = KINDS[kind]
        wide = width and width + chance.randint(-100, 100) * (kind != "clip")
        tokens.append(chance.randint(30, 150) + (images and images * image_tokens(wide, height, crops)))
        pictures.append(images and images * image_pictures(wide, height, crops))
    return Sizes(tokens, pictures)


def before(sizes: Sizes, processes: int, limit: int | None) -> Dealt:
    """Return the forwards of each process as they were dealt: as they came, or packs by their tokens."""
    samples = range(len(sizes.tokens))
    if limit is None:
        return [tuple((sample,) for sample in samples[rank::processes]) for rank in range(processes)]
    packs = pack(dict(enumerate(sizes.tokens)), limit)
    each = math.ceil(len(packs) / processes)
    dealt: list[list[Pack]] = [[] for _ in range(processes)]
    load = [(0, rank) for rank in range(processes)]
    for own in sorted(packs, key=lambda own: -sum(sizes.tokens[sample] for sample in own)):
        tokens, rank = heapq.heappop(load)
        dealt[rank].append(own)
        if len(dealt[rank]) < each:
            heapq.heappush(load, (tokens + sum(sizes.tokens[sample] for sample in own), rank))
    return [(*own, *[()] * (each - len(own))) for own in dealt]


def excess(dealt: Dealt, sizes: Sizes) -> tuple[float, float]:
    """Return the slowest process's excess over the mean, and that of the slowest of each forward."""
    work = [[sizes.work(own) for own in packs] for packs in dealt]
    mean = sum(map(sum, work)) / len(work)
    return max(map(sum, work)) / mean - 1, sum(map(max, zip(*work, strict=True))) / mean - 1


def balance(processes: int, size: int, limit: int | None) -> dict[str, float]:
    """Return the excess before and now, in percent; the same samples in both."""
    chance, found = random.Random(0), []  # noqa: S311  # no secret
    for _ in range(STEPS):
        sizes = mix(size, chance)
        old, new = before(sizes, processes, limit), divide(range(size), sizes, processes, limit=limit)
        held = [sorted(sample for packs in dealt for own in packs for sample in own) for dealt in (old, new)]
        assert held[0] == held[1] == list(range(size))
        assert len({len(packs) for packs in new}) == 1
        found.append((*excess(old, sizes), *excess(new, sizes)))
    names = ("before", "rounds_before", "now", "rounds_now")
    return {
        name: round(100 * statistics.fmean(column), 1)
        for name, column in zip(names, zip(*found, strict=True), strict=True)
    }


def main() -> None:
    """Measure all, and print it."""
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        for kind, (size, images, count) in SETS.items():
            results[kind] = headers(Path(name) / kind, write(Path(name) / kind, size, images, count))
            print(f"{kind}: {results[kind]}", file=sys.stderr)
    for processes in (2, 4, 8):
        for size in (16, 64):
            for limit in (None, 8192):
                key = f"{processes} processes, {size} samples, {'packs of 8192' if limit else 'one at once'}"
                results[key] = balance(processes, size, limit)
                print(f"{key}: {results[key]}", file=sys.stderr)
    print(json.dumps({"plan": results}))


if __name__ == "__main__":
    main()
