"""Answers in batches of like length against one record at a time: the same answers, how much faster.

The demo's 24 unseen clips, its model trained for a moment so that it ends its answers; both ways run in turns, reading
and encoding the pictures included. What cannot be compared is not timed: the answers are checked to be equal first.

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
from phi3v.trainer.evaluate import Generation, Reader, predict
from phi3v.trainer.load import load_model, load_processor
from phi3v.trainer.questions import deal, survey
from phi3v.trainer.run import train
from phi3v.trainer.scoring import Prediction

ROOT = Path(__file__).parents[1]
ROUNDS = 3
STEPS = 12
LONGEST = 16  # tokens of an answer, as in the demo
BATCH = 8  # --eval_batch_size by default


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
        records, encoder = Records([path]), Encoder(self._processor, path.parent / "images")
        self._questions = list(survey(records, encoder, 1 << 20))
        self._read = Reader(records, encoder)

    def ask(self, batch_size: int) -> tuple[list[Prediction], float]:
        """Return the predictions in the order of the file, and the seconds that they took."""
        how = Generation(max_new_tokens=LONGEST, choice={})
        start = time.perf_counter()
        (asks,) = deal(self._questions, batch_size, 1)
        found = [own for batch in predict(self._model, self._processor, self._read, asks, how) for own in batch]
        return sorted(found, key=lambda own: own.number), time.perf_counter() - start


def main() -> None:
    """Measure, and print what was found."""
    with tempfile.TemporaryDirectory() as folder:
        evaluation = Evaluation(*trained(Path(folder)))
        alone, together = evaluation.ask(1)[0], evaluation.ask(BATCH)[0]
        assert [own.text for own in alone] == [own.text for own in together], "both must give the same answers"
        assert [own.tokens for own in alone] == [own.tokens for own in together]
        pairs = [(evaluation.ask(1)[1], evaluation.ask(BATCH)[1]) for _ in range(ROUNDS)]
    faster = statistics.median(one / batched for one, batched in pairs)
    for one, batched in pairs:
        print(f"one at a time {one:.2f} s, in batches of {BATCH} {batched:.2f} s")
    tokens = sum(own.tokens for own in alone)
    result = {
        "batched_over_one_by_one": round(faster, 2),
        "records": len(alone),
        "tokens": tokens,
        "answers_equal": True,
    }
    print(json.dumps({"evaluate": result}))


if __name__ == "__main__":
    main()
