"""Reading data for training: what a sample costs beside decoding its pictures, what a step waits, what a record holds.

- `over_pillow`: seconds of encoding a sample, over what Pillow alone takes to decode and resize the same pictures, in
  turns in one process. Below it no loader can come that decodes with Pillow.
- `waiting`: the share of a training step of the tiny model that is spent waiting for data, by number of workers.
- `bytes_a_record`: what a million records add to the memory of a process, against the same read as objects.

Run: .venv/bin/python benchmarks/load.py     (the last line is JSON)
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from phi3v.schema import Conversation, Turn
from phi3v.schema.jsonl import read_lines
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.data import Records
from phi3v.trainer.encode import Encoder
from phi3v.trainer.model.tiny import tiny_processor
from phi3v.trainer.run import train

ROUNDS = 5
KINDS = {"clip of 8 frames": ((320, 240), 8, 4, 32), "page": ((1700, 2200), 1, 16, 8)}  # size, images, crops, records
RECORDS = 1_000_000


def write(folder: Path, size: tuple[int, int], images: int, count: int) -> list[Conversation]:
    """Write records of JPEGs with some structure; return them."""
    (folder / "images").mkdir(parents=True)
    chance = np.random.default_rng(0)
    records = []
    for number in range(count):
        names = tuple(f"{number}.{image}.jpg" for image in range(images))
        for name in names:
            rough = Image.fromarray(chance.integers(0, 255, (24, 24, 3), dtype=np.uint8))
            rough.resize(size, Image.Resampling.BICUBIC).save(folder / "images" / name, quality=95)
        records.append(Conversation(id=str(number), source="s", turns=(Turn(user="Q", assistant="A", images=names),)))
    (folder / "s_train.jsonl").write_text("".join(record.to_line() for record in records))
    return records


def encoding(folder: Path, records: list[Conversation], crops: int) -> dict[str, float]:
    """Return samples a second on one core, and the time over Pillow's alone."""
    processor = tiny_processor()
    processor.image_processor.num_crops = crops
    encoder = Encoder(processor, folder / "images")

    def ours() -> None:
        for record in records:
            encoder(record)

    sides = [_long_sides(encoder, record) for record in records]

    def pillow() -> None:
        for record, own in zip(records, sides, strict=True):
            for name, side in zip(record.images, own, strict=True):
                with Image.open(folder / "images" / name) as picture:
                    scale = side / max(picture.size)
                    size = (int(picture.width * scale), int(picture.height * scale))
                    picture.convert("RGB").resize(size, Image.Resampling.BILINEAR)

    ours(), pillow()  # warm
    times: dict[Callable[[], None], list[float]] = {ours: [], pillow: []}
    for _ in range(ROUNDS):
        for work, taken in times.items():
            taken.append(_seconds(work))
    ratio = statistics.median(a / b for a, b in zip(times[ours], times[pillow], strict=True))
    speed = len(records) / statistics.median(times[ours])
    return {"samples_per_s_a_core": round(speed, 1), "over_pillow": round(ratio, 2)}


def _long_sides(encoder: Encoder, record: Conversation) -> list[int]:
    """Return the pixels of the longer side that each image is resized to."""
    images = encoder(record).images
    assert images
    return images["image_sizes"].amax(dim=1).tolist()


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def waiting(folder: Path, workers: int) -> float:
    """Return the share of a run's time that its steps waited for data."""
    config = TrainConfig(
        data_dir=folder, output_dir=folder / f"run{workers}", model_name_or_path="tiny", num_crops=1, batch_size=4,
        batch_size_per_gpu=4, max_steps=8, logging_steps=8, save_steps=0, num_workers=workers, tqdm=False,
    )  # fmt: skip
    for _ in train(config):
        pass
    log = json.loads((config.output_dir / "trainer_state.json").read_text())["log_history"]
    return float(next(entry["waiting_for_data"] for entry in log if "waiting_for_data" in entry))


def memory(folder: Path) -> dict[str, float]:
    """Return the bytes a record takes when it is read by offset, and as an object."""
    line = Conversation(id="0", source="s", turns=(Turn(user="Q", assistant="A", images=("0.jpg",)),)).to_line()
    path = folder / "m_train.jsonl"
    path.write_text(line * RECORDS)
    found = {}
    makers = {"by offset": lambda: Records([path]), "as objects": lambda: _objects(path, RECORDS // 20)}
    for name, make in makers.items():
        tracemalloc.start()
        held = make()
        found[name] = round(tracemalloc.get_traced_memory()[0] / len(held), 1)
        tracemalloc.stop()
    return found


def _objects(path: Path, count: int) -> list[Conversation]:
    return [Conversation.from_line(line.data) for line, _ in zip(read_lines(path), range(count), strict=False)]


def main() -> None:
    """Measure all, and print it."""
    torch.set_num_threads(1)
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, (size, images, crops, count) in KINDS.items():
            records = write(folder / kind, size, images, count)
            results[kind] = encoding(folder / kind, records, crops)
            print(f"{kind}: {results[kind]}", file=sys.stderr)
        results["waiting"] = {workers: waiting(folder / "clip of 8 frames", workers) for workers in (0, 2)}
        results["bytes_a_record"] = memory(folder)
    print(json.dumps({"load": results}))


if __name__ == "__main__":
    main()
