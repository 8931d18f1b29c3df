"""Predictions on disk: `predictions_<when>.jsonl`, `eval_<when>.json`, and what an interrupted evaluation left."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from phi3v.schema.jsonl import atomic_write, read_lines
from phi3v.trainer.scoring import Metrics, Prediction, Score, classes, mean_loss, scores


def predictions_path(folder: Path, when: str) -> Path:
    """Return where the predictions of an evaluation are."""
    return folder / f"predictions_{when}.jsonl"


def scores_path(folder: Path, when: str) -> Path:
    """Return where the scores of an evaluation are."""
    return folder / f"eval_{when}.json"


def write_predictions(path: Path, predictions: Iterable[Prediction], chosen: Metrics | None) -> None:
    """Write one line a prediction: id, source, prompt, prediction, answers, score, tokens, and what else was taken."""
    with atomic_write(path) as file:
        for own in predictions:
            file.write((json.dumps(as_fields(own, chosen), ensure_ascii=False) + "\n").encode())


def as_fields(own: Prediction, chosen: Metrics | None) -> dict[str, Any]:
    """Return a prediction as its line has it."""
    fields = {
        "id": own.id,
        "source": own.source,
        "prompt": own.prompt,
        "prediction": own.text,
        "answers": list(own.answers),
        "score": chosen.of_sample(own) if chosen else None,
        "tokens": own.tokens,
        "probability": own.probability,
        "loss": own.loss,
        "error": own.error,
    }
    kept = ("id", "source", "prompt", "prediction", "answers", "score", "tokens")
    return {name: value for name, value in fields.items() if name in kept or value is not None}


def write_scores(path: Path, predictions: Sequence[Prediction], chosen: Metrics) -> list[Score]:
    """Write and return the scores, beside answers and generated texts under the original recipe's keys."""
    found = scores(predictions, chosen)
    scored = [own for own in predictions if own.scored]
    table = classes(predictions)
    content: dict[str, Any] = {score.metric: score.value for score in found}
    content |= {
        "loss": mean_loss(predictions),
        "scores": [asdict(score) for score in found],
        "scored": len(scored),
        "not_scored": len(predictions) - len(scored),
        "per_class": {name: row[name] / row.total() for name, row in table.items()} if table else None,
        "confusion": {name: dict(row) for name, row in table.items()} if table else None,
        "answers_unique": [
            {"id": own.id, "answer": own.answers[0] if own.answers else None, "answers": list(own.answers)}
            for own in predictions
        ],
        "generated_texts_unique": [{"id": own.id, "generated_text": own.text} for own in predictions],
    }
    with atomic_write(path) as file:
        file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    return found


def read_predictions(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file of predictions."""
    for line in read_lines(path):
        yield json.loads(line.data)


def evaluated(folder: Path) -> Counter[str]:
    """Return how often each record was answered in a run's evaluations, by its id."""
    paths = folder.glob("predictions_*.jsonl")
    return Counter(fields["id"] for path in paths for fields in read_predictions(path))


class Journal:
    """What an evaluation has answered so far, a file for each process; it is read again after an interruption.

    A journal of other questions, other weights or other settings is not taken: its first line says what it is of.

    Args:
        path: where the predictions will be; the journal stands beside it, hidden.
        about: what must be equal for answers to be those of this evaluation.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self._path = path
        self._about = json.dumps(dict(about), sort_keys=True, default=str)

    def answered(self) -> Iterator[Prediction]:
        """Yield what an interrupted evaluation has answered."""
        for path in self._files():
            head, *lines = path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
            if head != self._about:
                continue
            for line in lines:
                with suppress(ValueError, TypeError):  # the last line of a process that was killed is cut
                    fields = json.loads(line)
                    yield Prediction(**fields | {"answers": tuple(fields["answers"])})

    @contextmanager
    def writing(self, rank: int) -> Iterator[Callable[[Iterable[Prediction]], None]]:
        """Open this process's journal at its end; what it gives writes predictions so that a kill leaves them there."""
        path = self._path.with_name(f".{self._path.name}.{rank}.part")
        known = path.exists() and path.read_text(encoding="utf-8", errors="replace").partition("\n")[0] == self._about
        with path.open("a" if known else "w", encoding="utf-8") as file:
            file.write("\n" if known else f"{self._about}\n")  # ends a line that a kill has cut

            def note(predictions: Iterable[Prediction]) -> None:
                for own in predictions:
                    file.write(json.dumps(asdict(own), ensure_ascii=True) + "\n")
                file.flush()

            yield note

    def _files(self) -> list[Path]:
        return sorted(self._path.parent.glob(f".{self._path.name}.*.part"))


def write_evaluation(
    predictions: Sequence[Prediction], chosen: Metrics | None, *, answers: Path, scores: Path | None = None
) -> None:
    """Write what came of an evaluation, and take its journals away.

    Args:
        predictions: in the order of the data.
        chosen: how they are scored; None where nothing is.
        answers: where the predictions go; the journals stand beside it.
        scores: where the scores go.
    """
    write_predictions(answers, predictions, chosen)
    if scores and chosen:
        write_scores(scores, predictions, chosen)
    for journal in answers.parent.glob(f".{answers.name}.*.part"):
        journal.unlink(missing_ok=True)
