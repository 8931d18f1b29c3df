"""What fits where, by the planner: the tables of docs/scaling.md.

Run: .venv/bin/python benchmarks/memory.py     (a minute; Markdown, the last line is JSON)

Nothing here was measured on a GPU. A row of the first table is one strategy at the recipe's page of DocVQA and at a
clip of 8 frames, one sample at a time, with gradient checkpointing; the second sets the recipe's figures beside ours.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from phi3v.trainer.config import TrainConfig
from phi3v.trainer.memory import GIB, Layout, Memory, Scenario, usual
from phi3v.trainer.shape import released
from phi3v.trainer.trial import Forward, Held

PAGE = Forward((2509 + 60,), packed=False, image_tokens=2509, pictures=17, labelled=10)
CLIP = Forward((8 * 757 + 83,), packed=False, image_tokens=8 * 757, pictures=40, labelled=8)
STRATEGIES: dict[str, dict[str, Any]] = {
    "all weights": {},
    "vision part frozen": {"freeze_vision_model": True},
    "LoRA": {"use_lora": True},
    "QLoRA": {"use_qlora": True},
}
CARDS = (12, 16, 24, 32, 48, 80)
# GB on a GPU as the recipe publishes them: 8 A100 with and without flash attention, 8 V100, pages of 2,443 tokens.
RECIPE = {
    "all weights": (36, 42, 32),
    "vision part frozen": (27, 29, 27),
    "LoRA": (16, 50, 30),
    "QLoRA": (10, 32, None),
}
TRIED: dict[str, Held] = {}


def scenario(options: dict[str, Any], layout: Layout, forward: Forward) -> Scenario:
    """Return a run in bfloat16."""
    config = TrainConfig(data_dir=Path(), **options)
    return Scenario(
        shape=released(), config=config, layout=layout, kind="bf16", attention="sdpa", forwards=(forward,),
        alone=(forward,), several=True, tried=TRIED,
    )  # fmt: skip


def rows() -> dict[str, tuple[Memory, Memory]]:
    """Return the memory of each strategy and division, for a page and for a clip."""
    found = {}
    for name, options in STRATEGIES.items():
        for layout in layouts(options):
            gpus = f"{layout.gpus} GPU{'s' * (layout.gpus > 1)}"
            page, clip = (scenario(options, layout, forward).memory for forward in (PAGE, CLIP))
            found[f"{name}, {gpus}, {layout}"] = (page, clip)
    return found


def layouts(options: dict[str, Any]) -> list[Layout]:
    """Return how a strategy may be divided."""
    config = TrainConfig(data_dir=Path(), **options)
    if config.adapters:
        return [usual(config, gpus) for gpus in (1, 2)]
    divided = [Layout(name, gpus) for gpus in (2, 8, 16) for name in ("zero2", "zero3")]
    return [usual(config, 1), Layout("zero2", 1, offload=True), *divided, Layout("zero3", 2, offload=True)]


def main() -> None:
    """Print both tables."""
    found = rows()
    names = ("weights", "gradients", "optimizer", "activations", "logits", "buffers")
    print(f"| GiB a GPU | {' | '.join(names)} | page | clip | a page fits |\n|{'---|' * 10}")
    for name, (page, clip) in found.items():
        parts = " | ".join(f"{getattr(page, part) / GIB:.1f}" for part in names)
        card = next((f"{size} GB" for size in CARDS if page.fits(size)), "-")
        print(f"| {name} | {parts} | {page.total / GIB:.1f} | {clip.total / GIB:.1f} | {card} |")
    print("\n| GB a GPU, 8 GPUs | here | A100, flash | A100, no flash | V100 |\n|---|---|---|---|---|")
    table = {}
    for name, (flash, plain, volta) in RECIPE.items():
        options = STRATEGIES[name]
        ours = scenario(options, usual(TrainConfig(data_dir=Path(), **options), 8), PAGE).memory.total / 1e9
        table[name] = round(ours, 1)
        print(f"| {name} | {ours:.1f} | {flash} | {plain} | {volta or '-'} |")
    print(
        json.dumps({"memory": {name: round(page.total / GIB, 1) for name, (page, _) in found.items()} | {"GB": table}})
    )


if __name__ == "__main__":
    main()
