"""The rows of the original recipe's result tables as presets: its settings, and the score it published.

What the recipe scores is a slice of data that is published for training (DocVQA: a test of 200 from another
repository), so that a published score says little about another set: `unlike` tells what differs.

No torch here: `phi3v-train --list_presets` reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NamedTuple

from phi3v.schema import UserError
from phi3v.trainer.config import TrainConfig

PHI_3, PHI_35 = "microsoft/Phi-3-vision-128k-instruct", "microsoft/Phi-3.5-vision-instruct"
ANSWER_LENGTH = 64
CROPS = 16


class Task(NamedTuple):
    """What the recipe trains and scores a data set on.

    Attributes:
        source: of our records.
        model: its name on the hub.
        metric: ours, computed as the recipe does.
        records: how many are scored.
        scored_on: which, in words.
        trained_on: which, in words.
    """

    source: str
    model: str
    metric: str
    records: int
    scored_on: str
    trained_on: str


TASKS = {
    "docvqa": Task(
        "docvqa", PHI_3, "anls_recipe", 200, "nielsr/docvqa_1200_examples, test", "HuggingFaceM4/the_cauldron, docvqa"
    ),
    "hateful": Task(
        "hateful_memes",
        PHI_3,
        "accuracy",
        500,
        "HuggingFaceM4/the_cauldron, hateful_memes, train[:500]",
        "the same, train[500:]",
    ),
    "nlvr2": Task(
        "nlvr2",
        PHI_35,
        "accuracy",
        500,
        "HuggingFaceM4/the_cauldron, nlvr2, train[:500]",
        "the same, train[500:]",
    ),
}
FROZEN: dict[str, Any] = {"freeze_vision_model": True}
LORA: dict[str, Any] = {"use_lora": True}
QLORA: dict[str, Any] = {"use_qlora": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One row of a result table.

    Attributes:
        name: `<task>-<strategy>-<precision>`.
        task: what it is trained and scored on.
        settings: what differs from our defaults; the rest of the recipe's settings are these.
        published: the score, in percent.
    """

    name: str
    task: Task
    settings: dict[str, Any]
    published: float


class _Row(NamedTuple):
    task: str
    strategy: str
    settings: dict[str, Any]
    learning_rate: float
    epochs: int
    bf16: float
    fp16: float | None = None


_ADAPTERS = {
    "docvqa": {"lora_rank": 32, "lora_alpha_ratio": 0.5},
    "hateful": {"lora_rank": 128, "lora_alpha_ratio": 2.0},
}
_ROWS = (
    _Row("docvqa", "full", {}, 5e-6, 2, 83.65, 82.60),
    _Row("docvqa", "frozen", FROZEN, 1e-4, 2, 79.19, 78.74),
    _Row("docvqa", "lora", LORA | _ADAPTERS["docvqa"], 2e-4, 2, 82.46, 82.34),
    _Row("docvqa", "qlora", QLORA | _ADAPTERS["docvqa"], 2e-4, 2, 81.85, 81.85),
    _Row("hateful", "full", {}, 5e-5, 2, 86.4, 85.4),
    _Row("hateful", "frozen", FROZEN, 1e-4, 3, 79.4, 78.6),
    _Row("hateful", "lora", LORA | _ADAPTERS["hateful"], 2e-4, 2, 86.6, 85.2),
    _Row("hateful", "qlora", QLORA | _ADAPTERS["hateful"], 2e-4, 2, 84.0, 83.8),
    _Row("nlvr2", "full", {}, 1e-5, 3, 89.40),
    _Row("nlvr2", "frozen", FROZEN, 2e-5, 2, 89.20),
)


def _presets() -> Iterator[Preset]:
    for row in _ROWS:
        for precision, published in (("bf16", row.bf16), ("fp16", row.fp16)):
            if published is None:
                continue
            task = TASKS[row.task]
            settings = {
                "model_name_or_path": task.model,
                "batch_size": 64,
                "num_train_epochs": row.epochs,
                "learning_rate": row.learning_rate,
                "num_crops": CROPS,
                "max_new_tokens": ANSWER_LENGTH,
                precision: True,
            }
            yield Preset(
                name=f"{row.task}-{row.strategy}-{precision}",
                task=task,
                settings=settings | row.settings,
                published=published,
            )


PRESETS = {preset.name: preset for preset in _presets()}


class Scored(NamedTuple):
    """What a run was scored on: the sources, the records, how many the data have."""

    sources: tuple[str, ...]
    records: int
    total: int


def unlike(preset: Preset, config: TrainConfig, scored: Scored) -> list[str]:
    """Return in what a run differs from the recipe's, as far as it can be told: one sentence each.

    That the records are the same cannot be told from here: `same_data` says so.
    """
    found = []
    task = preset.task
    if scored.sources != (task.source,):
        found.append(f"data: scored on {', '.join(scored.sources)}, the recipe on {task.source} ({task.scored_on})")
    elif scored.total != task.records:
        found.append(f"data: {scored.total} records, the recipe's {task.records} ({task.scored_on})")
    if scored.records < scored.total:
        found.append(f"protocol: {scored.records} of {scored.total} records drawn, the recipe scores all")
    for name, value in preset.settings.items():
        own = getattr(config, name)
        if own != value:
            found.append(f"settings: --{name} {own}, the recipe {value}")
    if config.eval_steps and config.metric_for_best != "none":
        found.append("protocol: the weights were chosen by this score, the recipe takes the last ones")
    if config.max_steps > 0:
        found.append(f"settings: --max_steps {config.max_steps}, the recipe ends with its epochs")
    return found


def named(name: str) -> Preset:
    """Return a preset by its name.

    Raises:
        UserError: there is none.
    """
    if name not in PRESETS:
        near = get_close_matches(name, PRESETS, n=1)
        fix = f"did you mean {near[0]}?" if near else "see them: phi3v-train --list_presets"
        raise UserError(f"no such preset: {name}", fix=fix)
    return PRESETS[name]


def table() -> Iterator[tuple[str, ...]]:
    """Yield the presets as rows of text, the heading first."""
    yield ("preset", "published", "metric", "learning rate", "epochs", "rank", "model")
    for name, preset in PRESETS.items():
        settings = preset.settings
        yield (
            name,
            f"{preset.published:.2f}",
            preset.task.metric,
            f"{settings['learning_rate']:g}",
            str(settings["num_train_epochs"]),
            str(settings.get("lora_rank", "-")),
            preset.task.model,
        )
