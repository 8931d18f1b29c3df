"""Answers in batches of like length against one record at a time: the same answers, how much faster.

The demo's 24 unseen clips, twice: by a model trained for a moment, whose answers are short, and by the one that it
started as, which writes on to the limit, as before any training. Reading and encoding the pictures is included. The
answers are checked to be equal first; then all ways run in turns, on as many threads as torch takes by default.

Run: .venv/bin/python benchmarks/evaluate.py     (the last line is JSON)
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

from phi3v.converters import convert, ucf101
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.data import Records
from phi3v.trainer.encode import Encoder
from phi3v.trainer.generate import Generation, Reader, predict
from phi3v.trainer.load import load_model, load_processor
from phi3v.trainer.questions import deal, survey
from phi3v.trainer.run import train
from phi3v.trainer.scoring import Prediction

ROOT = Path(__file__).parents[1]
ROUNDS = 5
STEPS = 12
LONGEST = 64  # tokens of an answer, by default
BATCHES = {"in_batches_of_8": 8, "in_batches_by_tokens": None}  # the second is the default


def trained(folder: Path) -> tuple[str, Path]:
    """Convert the demo's clips and train its model for a moment; return the model and the file to score on."""
    options = ucf101.Options(src_dir=ROOT / "fixtures" / "ucf101", num_frames=2)
    list(convert("ucf101", options, out_dir=folder / "data"))
    config = TrainConfig(
        data_dir=folder / "data",
        output_dir=folder / "model",
        model_name_or_path="tiny",
        num_crops=1,
        batch_size=8,
        batch_size_per_gpu=8,
        learning_rate=1e-3,
        max_steps=STEPS,
        gradient_checkpointing=False,
        eval_before="none",
        eval_limit=1,
        save_steps=0,
        tqdm=False,
    )
    list(train(config))
    return str(config.output_dir), folder / "data" / "ucf101_val.jsonl"


class Evaluation:
    """The questions of a file, ready to be asked in batches of any size."""

    def __init__(self, name: str, path: Path) -> None:
        self._model, self._processor = load_model(name), load_processor(name)
        self._processor.image_processor.num_crops = 1  # as in the demo
        records, encoder = Records([path]), Encoder(self._processor, path.parent / "images")
        self._questions = list(survey(records, encoder, 1 << 20))
        self._read = Reader(records, encoder)

    def ask(self, batch_size: int | None) -> tuple[list[Prediction], float]:
        """Return the predictions in the order of the file, and the seconds that they took."""
        how = Generation(max_new_tokens=LONGEST, choice={})
        start = time.perf_counter()
        (asks,) = deal(self._questions, batch_size, 1)
        found = [own for batch in predict(self._model, self._processor, self._read, asks, how) for own in batch]
        return sorted(found, key=lambda own: own.number), time.perf_counter() - start


def compare(evaluation: Evaluation) -> dict[str, float]:
    """Return how many times faster batches are than one record at a time, by their size."""
    alone = evaluation.ask(1)[0]
    for size in BATCHES.values():
        together = evaluation.ask(size)[0]
        assert [own.text for own in alone] == [own.text for own in together], "both must give the same answers"
        assert [own.tokens for own in alone] == [own.tokens for own in together]
    names = {"one_at_a_time": 1, **BATCHES}
    rounds = [{name: evaluation.ask(size)[1] for name, size in names.items()} for _ in range(ROUNDS)]
    for seconds in rounds:
        print(", ".join(f"{name}: {own:.2f} s" for name, own in seconds.items()))
    found = {name: round(statistics.median(own["one_at_a_time"] / own[name] for own in rounds), 2) for name in BATCHES}
    return {"tokens": sum(own.tokens for own in alone), **found}


def main() -> None:
    """Measure, and print what was found."""
    with tempfile.TemporaryDirectory() as folder:
        name, path = trained(Path(folder))
        results = {
            "short_answers": compare(Evaluation(name, path)),
            "answers_to_the_limit": compare(Evaluation("tiny", path)),
        }
    print(json.dumps({"evaluate": results | {"answers_equal": True}}))


if __name__ == "__main__":
    main()
