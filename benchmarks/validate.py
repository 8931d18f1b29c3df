"""Validation against the least that any reader must do, side by side on the same lines and pictures.

- text: syntax, schema, rules, duplicate keys and ids, against `orjson.loads` alone; with two processes, too;
- jsonschema: the same against a loop of `json.loads` and `jsonschema`, on fewer lines;
- headers: looking at small JPEGs against `Image.open` alone;
- memory: the peak of a process that checks five million lines;
- hook: a file of a thousand lines and pictures, against the start of Python; a hundred thousand unchanged lines.

Before anything is timed, each finds the same mistakes in the same lines.

Run: .venv/bin/python benchmarks/validate.py [--rows 5000000]     (the last line is JSON; about five minutes)
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from phi3v.schema import Checker
from phi3v.schema.contract import schema_text

ROUNDS = 7
CLASSES = (
    "ApplyEyeMakeup", "ApplyLipstick", "Archery", "BabyCrawling", "BalanceBeam",
    "BandMarching", "BaseballPitch", "Basketball", "BasketballDunk", "BenchPress",
)  # fmt: skip
PEAK = """
import sys
from pathlib import Path
from phi3v.schema import Checker
checker = Checker(images="none")
assert not list(checker.check(Path(sys.argv[1])))
status = Path("/proc/self/status").read_text()  # not getrusage: that counts the parent before exec
print(checker.records, status.split("VmHWM:")[1].split()[0])
"""


def clip(number: int) -> dict[str, Any]:
    """Return a record as UCF-101's: eight frames, a list of classes."""
    label = CLASSES[number % 10]
    stem = f"train/{label}/v_{label}_g{number % 25:02d}_c{number % 7:02d}"
    question = f"Classify the video into one of the following classes: {', '.join(CLASSES)}."
    turn = {"images": [f"{stem}.{frame}.jpg" for frame in range(8)], "user": question, "assistant": label}
    return {"id": f"train-{number:010d}", "source": "ucf101", "conversations": [turn]}


def page(number: int) -> dict[str, Any]:
    """Return a record as of questions about pages: one image with a tag, a question of its own, metadata."""
    turn = {
        "images": [f"documents/abcd{number % 9999:04d}_{number % 9}.png"],
        "user": f"<|image_1|>\nWhat is the {number}th date: on which line of this letter does it stand?",
        "assistant": f"{number % 12}/8/93",
    }
    metadata = {"question_id": number, "types": ["handwritten", "form"], "document": f"abcd{number % 9999:04d}"}
    return {"id": f"train-{number:010d}", "source": "docvqa", "conversations": [turn], "metadata": metadata}


def write(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    """Write records in the one byte form."""
    with path.open("w") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return path


def seconds(work: Callable[[], Any]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratio(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Return the median of our time over theirs, pair by pair."""
    return round(statistics.median(seconds(ours) / seconds(theirs) for _ in range(rounds)), 2)


def parse(lines: list[bytes]) -> None:
    """Do the least: parse each line."""
    for line in lines:
        orjson.loads(line)


def check(path: Path, jobs: int = 1) -> None:
    """Do all but images; there is nothing to find."""
    assert not list(Checker(images="none", jobs=jobs).check(path))


def wrong_lines(path: Path) -> Iterator[int]:
    """Yield the lines that a plain loop of json and jsonschema refuses."""
    import jsonschema  # here, since the processes of `--jobs` import this module anew

    validator = jsonschema.Draft202012Validator(json.loads(schema_text()))
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not validator.is_valid(json.loads(line)):
                yield number


def compare_text(folder: Path, rows: int, make: Callable[[int], dict[str, Any]]) -> dict[str, float]:
    """Return our time over that of `orjson.loads`, in one process and in two, and of jsonschema over ours."""
    spoilt = [make(number) for number in range(2_000)]
    for record in spoilt[::100]:
        record["conversations"] = []
    few = write(folder / "few.jsonl", spoilt)
    assert list(wrong_lines(few)) == [finding.line for finding in Checker(images="none").check(few)]
    write(few, map(make, range(2_000)))
    path = write(folder / "rows.jsonl", map(make, range(rows)))
    lines = path.read_bytes().splitlines()
    result = {
        "rows": rows,
        "over_orjson": ratio(lambda: check(path), lambda: parse(lines)),
        "over_orjson_2_jobs": ratio(lambda: check(path, 2), lambda: parse(lines)),
        "jsonschema_over_ours": ratio(lambda: list(wrong_lines(few)), lambda: check(few), 3),
    }
    path.unlink()
    return result


def compare_headers(folder: Path, count: int = 20_000) -> dict[str, float]:
    """Return our time over that of `Image.open` alone, and pictures a second."""
    from PIL import Image

    from phi3v.schema.images import FORMATS, Folder

    names = [f"{number % 100}/{number}.jpg" for number in range(count)]
    picture = folder / "one.jpg"
    Image.effect_noise((320, 240), 50).convert("RGB").save(picture)
    data = picture.read_bytes()
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)

    def opened() -> list[tuple[int, int]]:
        sizes = []
        for name in names:
            with Image.open(folder / name, formats=FORMATS) as image:
                sizes.append(image.size)
        return sizes

    def looked() -> list[tuple[int, int]]:
        return [(look.width, look.height) for look in Folder(folder).look_all(names)]

    assert opened() == looked()
    return {
        "over_image_open": ratio(looked, opened, 5),
        "a_second": round(count / min(seconds(looked) for _ in range(5))),
    }


def peak(folder: Path, rows: int) -> dict[str, float]:
    """Return the peak memory in MB of a process that checks so many short lines, their ids ascending or in disorder."""
    result: dict[str, float] = {"rows": rows}
    path = folder / "many.jsonl"
    for order, step in (("ascending", 1), ("in_disorder", 7)):  # 7 and the number of rows have no common factor
        records = (
            {
                "id": f"train-{number * step % rows:010d}",
                "source": "s",
                "conversations": [{"user": "Q", "assistant": "A"}],
            }
            for number in range(rows)
        )
        write(path, records)
        done = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True)
        read, kilobytes = map(int, done.stdout.split())
        assert read == rows
        result[f"megabytes_{order}"] = round(kilobytes / 1024)
    path.unlink()
    return result


def compare_hook(folder: Path) -> dict[str, float]:
    """Return how many seconds the command takes beyond the start of Python, for new and for unchanged lines."""
    data = (folder / "one.jpg").read_bytes()
    (folder / "images").mkdir()
    for number in range(1_000):
        (folder / f"images/{number}.jpg").write_bytes(data)

    def record(number: int) -> dict[str, Any]:
        turn = {"images": [f"{number % 1_000}.jpg"], "user": "Which?", "assistant": str(number)}
        return {"id": str(number), "source": "s", "conversations": [turn]}

    command = [str(Path(sys.executable).with_name("phi3v-data")), "validate"]
    few = write(folder / "thousand.jsonl", map(record, range(1_000)))
    many = write(folder / "unchanged.jsonl", map(record, range(100_000)))
    cached = [*command, "--cache_dir", str(folder / "cache"), str(many)]
    subprocess.run(cached, check=True, capture_output=True)

    def run(command: list[str]) -> float:
        return min(seconds(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(5))

    start = run([sys.executable, "-c", "pass"])
    return {
        "thousand_lines": round(run([*command, str(few)]) - start, 3),
        "hundred_thousand_unchanged": round(run(cached) - start, 3),
        "the_same_without_cache": round(run([*command, str(many)]) - start, 3),
    }


def main() -> None:
    """Compare all, and print what came out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=5_000_000, help="lines for the memory")
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = {
            "clips": compare_text(folder, 1_000_000, clip),
            "pages": compare_text(folder, 300_000, page),
            "headers": compare_headers(folder),
            "memory": peak(folder, rows),
            "hook_seconds": compare_hook(folder),
        }
    for what, figures in results.items():
        print(f"{what}: {', '.join(f'{key} {value}' for key, value in figures.items())}")
    print(json.dumps({"validate": results}))


if __name__ == "__main__":
    main()
