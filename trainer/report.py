"""What came of a run, as `report.md` and `report.html`: written from the files in its folder."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from PIL import Image

from phi3v.trainer.config import TrainConfig
from phi3v.trainer.curves import ScoreAt, draw_curves
from phi3v.trainer.data import Records
from phi3v.trainer.model.image_processor import to_rgb
from phi3v.trainer.pages import Block, Cell, Heading, Picture, Table, Text, write_html, write_markdown
from phi3v.trainer.predictions import predictions_path, read_predictions
from phi3v.trainer.presets import Scored, named, unlike

OF_THE_RUN = r"before|after|step-\d+"
WORST = 10
PICTURES = 4  # shown of a record
SIDE = 240  # of a shown picture, in pixels
TEXT = 300  # characters shown of a prompt
KNOWN_ALREADY = ("data_dir", "output_dir", "overwrite", "resume", "model_name_or_path", "preset")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a run has left in its folder.

    Attributes:
        config: the run's settings.
        log: the Trainer's.
        scores: what `eval_<when>.json` holds, by `before`, `after`, `step-N`.
        samples: the ledger.
        records: what was scored on, or None.
    """

    config: TrainConfig
    log: list[dict[str, Any]]
    scores: dict[str, dict[str, Any]]
    samples: list[dict[str, Any]]
    records: Records | None

    @property
    def last(self) -> dict[str, Any] | None:
        """The scores of the weights that were saved, else of those that training started with."""
        return self.scores.get("after") or self.scores.get("before")


def write_report(config: TrainConfig, records: Records | None) -> Path:
    """Write a run's report, and return the page to look at."""
    folder = config.output_dir
    named = {path.stem.removeprefix("eval_"): path for path in folder.glob("eval_*.json")}
    # Only the run's own: a user may have put other scores beside them.
    scores = {when: json.loads(path.read_bytes()) for when, path in named.items() if re.fullmatch(OF_THE_RUN, when)}
    found = Found(
        config=config,
        log=json.loads((folder / "trainer_state.json").read_bytes())["log_history"],
        scores=scores,
        samples=[json.loads(line) for line in (folder / "samples.jsonl").read_bytes().splitlines()],
        records=records,
    )
    blocks = list(_blocks(found))
    write_markdown(folder / "report.md", blocks)
    write_html(folder / "report.html", blocks)
    return folder / "report.html"


def _blocks(found: Found) -> Iterator[Block]:
    config = found.config
    yield Heading(f"Run {config.output_dir.resolve().name}", 1)
    strategy = "QLoRA" if config.use_qlora else "LoRA" if config.use_lora else "all weights"
    frozen = ", vision part frozen" if config.freeze_vision_model else ""
    steps = max((entry["step"] for entry in found.log), default=0)
    yield Text(f"{config.model_name_or_path}, {strategy}{frozen}; {steps} steps on {config.data_dir.resolve().name}.")
    yield Heading("Scores")
    yield from _score_table(found)
    yield from _published(found)
    yield Heading("Curves")
    metric = found.last["scores"][0]["metric"] if found.last else ""
    curves = draw_curves(found.log, _curve(found, metric), metric)
    yield Picture("curves.svg", "Loss, score, learning rate and speed by step", curves)
    yield from _confusion(found)
    yield from _worst(found)
    yield Heading("Data")
    yield _data(found)
    yield Heading("Settings")
    yield from _settings(found)


def _score_table(found: Found) -> Iterator[Block]:
    if not found.last:
        yield Text("Nothing was scored.")
        return
    whens = [when for when in ("before", "after") if when in found.scores]
    rows = []
    for metric in [score["metric"] for score in found.last["scores"]]:
        row: list[Cell] = [metric]
        for when in whens:
            own = next((score for score in found.scores[when]["scores"] if score["metric"] == metric), None)
            row += [_with_interval(own), str(own["count"])] if own else ["-", "-"]
        rows.append(row)
    losses: list[Cell] = ["loss per token of the right answers"]
    for when in whens:
        loss = found.scores[when]["loss"]
        losses += ["-" if loss is None else f"{loss:.4f}", str(found.scores[when]["scored"])]
    head = [part for when in whens for part in (f"{when} (95 % interval)", "samples")]
    yield Table(["metric", *head], [*rows, losses])
    unscored = found.last["not_scored"]
    if unscored:
        yield Text(f"{unscored} records without an answer were predicted and are in no score.")


def _with_interval(score: Mapping[str, Any]) -> str:
    return f"{score['value']:.4f} ({score['low']:.4f} to {score['high']:.4f})"


def _published(found: Found) -> Iterator[Block]:
    """Yield the score that the recipe published beside the measured one, and in what the two differ."""
    if not found.config.preset or not found.last:
        return
    preset = named(found.config.preset)
    measured = next((own for own in found.last["scores"] if own["metric"] == preset.task.metric), None)
    yield Heading("Beside the published score", 3)
    own = f"{100 * measured['value']:.2f}" if measured else "not measured"
    head = ["preset", "metric", "published", "measured"]
    yield Table(head, [[preset.name, preset.task.metric, f"{preset.published:.2f}", own]])
    sources = tuple({fields["source"]: None for fields in read_predictions(_predictions(found))})
    total = len(found.records or ())
    scored = Scored(sources, found.last["scored"] + found.last["not_scored"], total)
    differences = unlike(preset, found.config, scored)
    if differences:
        yield Text("The two are not comparable:")
        yield Table(["what differs"], [[difference] for difference in differences])
    else:
        what = f"Source, number of records, settings and metric are the recipe's ({preset.task.scored_on})."
        yield Text(f"{what} Whether the records are the same ones cannot be told from here.")


def _predictions(found: Found) -> Path:
    when = "after" if "after" in found.scores else "before"
    return predictions_path(found.config.output_dir, when)


def _curve(found: Found, metric: str) -> list[ScoreAt]:
    """Return the score that counts, by step."""
    final = max((entry["step"] for entry in found.log), default=0)
    points = []
    for when, content in found.scores.items():
        own = next((score for score in content["scores"] if score["metric"] == metric), None)
        if own and when != "after":
            step = 0 if when == "before" else int(when.removeprefix("step-"))
            points.append(ScoreAt(step, own["value"], own["low"], own["high"]))
        elif own and not any(name.startswith("step-") for name in found.scores):
            points.append(ScoreAt(final, own["value"], own["low"], own["high"]))
    return sorted(points)


def _confusion(found: Found) -> Iterator[Block]:
    table = found.last and found.last["confusion"]
    if not table:
        return
    names = list(table)
    others = sorted({name for row in table.values() for name in row} - set(names))
    rows: list[list[Cell]] = []
    for name, row in table.items():
        right = row.get(name, 0) / sum(row.values())
        rows.append([name, *(str(row.get(column, 0)) for column in [*names, *others]), f"{right:.2f}"])
    yield Heading("Classes")
    yield Text("A row for each right answer, a column for each prediction.")
    yield Table(["right answer", *names, *others, "accuracy"], rows)


def _worst(found: Found) -> Iterator[Block]:
    """Yield the records with the lowest scores; of equal ones those whose right answer the model holds least likely."""
    if not found.last or not found.records:
        return
    scored = [own for own in read_predictions(_predictions(found)) if own["score"] is not None]
    wrong = sorted((own for own in scored if own["score"] < 1), key=lambda own: (own["score"], -(own.get("loss") or 0)))
    yield Heading("The worst predictions")
    if not wrong:
        yield Text("None: every answer has the full score.")
        return
    images = _images(found.records, {own["id"] for own in wrong[:WORST]})
    root = found.config.data_dir / "images"
    head = ["pictures", "id", "question", "prediction", "right answers", "score"]
    yield Table(head, [_wrong(own, _thumbnails(images[own["id"]], root, row)) for row, own in enumerate(wrong[:WORST])])


def _wrong(own: Mapping[str, Any], pictures: tuple[Picture, ...]) -> list[Cell]:
    prediction, answers = own["prediction"].strip() or "(nothing)", "\n".join(own["answers"])
    return [pictures, own["id"], own["prompt"][:TEXT], prediction, answers, f"{own['score']:.2f}"]


def _images(records: Records, wanted: set[str]) -> dict[str, tuple[str, ...]]:
    """Return the images of some records, by id."""
    read = (records[number] for number in range(len(records)))
    return {record.id: record.images for record in read if record.id in wanted}


def _thumbnails(images: tuple[str, ...], root: Path, row: int) -> tuple[Picture, ...]:
    made = []
    for number, path in enumerate(images[:PICTURES], 1):
        out = io.BytesIO()
        with Image.open(root / path) as image:
            small = to_rgb(image)
            small.thumbnail((SIDE, SIDE))
            small.save(out, "JPEG", quality=80)
        made.append(Picture(f"worst-{row + 1}.{number}.jpg", path, out.getvalue()))
    return tuple(made)


def _data(found: Found) -> Table:
    training = [entry for entry in found.samples if "trained" in entry]
    scored = [entry for entry in found.samples if "evaluated" in entry]
    skipped = Counter(entry["skipped"] for entry in training if "skipped" in entry)
    rows = [
        ["training samples", str(len(training))],
        ["trained at least once", str(sum(entry["trained"] > 0 for entry in training))],
        *([f"skipped: {code}", str(count)] for code, count in sorted(skipped.items())),
        ["samples to score on", str(len(scored))],
        ["answered at least once", str(sum(entry["evaluated"] > 0 for entry in scored))],
    ]
    return Table(["what", "how many"], rows)


def _settings(found: Found) -> Iterator[Block]:
    values, defaults = found.config.values(), {own.name: own.default for own in fields(TrainConfig)}
    given = {name: value for name, value in values.items() if value != defaults.get(name)}
    rows = [[f"--{name}", str(value)] for name, value in given.items() if name not in KNOWN_ALREADY]
    yield Text("What differs from the defaults; train_config.json has all of them.")
    yield Table(["setting", "value"], rows)
    environment = json.loads((found.config.output_dir / "environment.json").read_bytes())
    versions = {"python": environment["python"], **environment["packages"]}
    yield Table(["package", "version"], [[name, version] for name, version in versions.items() if version])
