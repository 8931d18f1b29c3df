"""Pages a second and memory of each strategy, to be run where GPUs are: the recipe's table, filled in anew.

Trains each strategy for some steps with `phi3v-train`'s own command on drawn pages of 1700 x 2200, with and without
FlashAttention, and sets the peak memory beside the recipe's. Without a GPU it runs the tiny model, to show that it
runs; its figures then say nothing about a GPU, and are marked so.

Run: .venv/bin/python benchmarks/gpu.py      (all GPUs of this machine; the last line is JSON)
     .venv/bin/python benchmarks/gpu.py --folder /shared/gpu --launcher "torchrun --nnodes 2 --nproc_per_node 8
         --node_rank 0 --master_addr HOST --master_port 29500"      (the same on each node, with its rank)
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from phi3v.schema import Conversation, Turn

PAGES = 64
SIZE = 1700, 2200
WARM = 2  # entries of the log that are left out
STRATEGIES = {
    "all weights": [],
    "vision part frozen": ["--freeze_vision_model"],
    "LoRA": ["--use_lora"],
    "QLoRA": ["--use_qlora"],
}
# GB a GPU as the recipe publishes them, on 8 A100: with FlashAttention, and without.
RECIPE = {"all weights": (36, 42), "vision part frozen": (27, 29), "LoRA": (16, 50), "QLoRA": (10, 32)}


def pages(folder: Path, size: tuple[int, int]) -> Path:
    """Draw pages of lines, each with a question; return the folder, as `phi3v-data` writes one."""
    chance = random.Random(0)  # noqa: S311  # no secret
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(PAGES):
        picture = Image.new("L", size, 255)
        draw = ImageDraw.Draw(picture)
        for y in range(size[1] // 20, size[1], max(4, size[1] // 60)):
            draw.line((size[0] // 10, y, chance.randrange(size[0] // 5, size[0]), y), fill=60, width=3)
        picture.save(folder / "images" / f"{number}.png")
        turn = Turn(user="What is the date?", images=(f"{number}.png",), assistant=f"{number % 12 + 1}/8/93")
        lines.append(Conversation(id=f"page-{number}", source="docvqa", turns=(turn,)).to_line())
    (folder / "docvqa_train.jsonl").write_text("".join(lines))
    return folder


def measure(launcher: list[str], data: Path, out: Path, options: list[str]) -> dict[str, Any]:
    """Train, and return pages a second and the most GiB of the first GPU; or why it did not run."""
    fixed = ["--data_dir", str(data), "--output_dir", str(out), "--overwrite", "--save_steps", "0", "--no_tqdm"]
    command = [*launcher, "-m", "phi3v.trainer", *fixed, "--logging_steps", "1", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error: " in line or "Error: " in line]
        return {"failed": errors[0] if errors else f"exit code {done.returncode}"}
    log = json.loads((out / "trainer_state.json").read_text())["log_history"]
    entries = [entry for entry in log if "samples_per_second" in entry][WARM:]
    memory = [entry["gpu_memory_gib"] for entry in entries if "gpu_memory_gib" in entry]
    return {
        "pages_a_second": round(statistics.median(entry["samples_per_second"] for entry in entries), 3),
        "gib": max(memory, default=None),
    }


def main() -> None:
    """Measure every row, and print the table."""
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="microsoft/Phi-3-vision-128k-instruct" if on_gpu else "tiny")
    parser.add_argument("--steps", type=int, default=20 if on_gpu else 5)
    parser.add_argument("--batch_size", type=int, default=64 if on_gpu else 4, help="over all GPUs, as in the recipe")
    parser.add_argument("--launcher", help="torchrun and its options; by default for all GPUs of this machine")
    parser.add_argument("--folder", type=Path, help="on a disk that all nodes see; by default a temporary one")
    given = parser.parse_args()
    gpus = max(1, torch.cuda.device_count())
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(gpus)]
    launcher = shlex.split(given.launcher) if given.launcher else launcher if gpus > 1 else [sys.executable]
    settings = ["--model_name_or_path", given.model, "--max_steps", str(given.steps)]
    settings += ["--batch_size", str(given.batch_size), "--num_crops", "16" if on_gpu else "1"]
    print(f"{gpus} x {torch.cuda.get_device_name()}" if on_gpu else "NO GPU: tiny model, small pages; no figure counts")
    print("| strategy | attention | pages/s | GiB a GPU | recipe, 8 A100 |\n|---|---|---|---|---|")
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        data = pages(folder / "data", SIZE if on_gpu else (170, 220))
        for strategy, options in STRATEGIES.items():
            for place, attention in enumerate(("flash_attention_2", "sdpa")):
                own = measure(launcher, data, folder / "run", [*settings, *options, "--attention", attention])
                found[f"{strategy}, {attention}"] = own
                told = own.get("failed") or f"{own['pages_a_second']} | {own['gib']}"
                print(f"| {strategy} | {attention} | {told} | {RECIPE[strategy][place]} GB |", flush=True)
    print(json.dumps({"gpu": {"on_gpu": on_gpu, "gpus_of_this_machine": gpus, "rows": found}}))


if __name__ == "__main__":
    main()
