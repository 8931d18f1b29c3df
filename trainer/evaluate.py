"""Ask all of a set's questions of one model, on every process, and gather the answers."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

from accelerate.utils import gather_object
from torch import nn

from phi3v.trainer.data import Policy, Records
from phi3v.trainer.encode import Encoder
from phi3v.trainer.events import Answered
from phi3v.trainer.generate import Choice, Generation, Reader, choices, predict
from phi3v.trainer.machine import processes, rank
from phi3v.trainer.model import Phi3VProcessor
from phi3v.trainer.predictions import Journal
from phi3v.trainer.questions import Question, deal, distinct_answers
from phi3v.trainer.scoring import Metrics, Prediction


class Job(NamedTuple):
    """What is asked and how, whichever model it is of.

    Attributes:
        records: what the questions are of.
        encoder: as in training.
        processor: the model's.
        questions: in the order of the data.
        generation: how answers are generated.
        batch_size: most answers at a time; None for as many as `deal` says.
        on_error: what to do with an image that cannot be read.
    """

    records: Records
    encoder: Encoder
    processor: Phi3VProcessor
    questions: Sequence[Question]
    generation: Generation
    batch_size: int | None = None
    on_error: Policy = "fail"

    def about(self, **more: Any) -> dict[str, Any]:
        """Return what makes its answers its own, with `more`."""
        asked = repr([(own.number, own.tokens, own.how, own.answer) for own in self.questions])
        return {
            "questions": hashlib.sha256(asked.encode()).hexdigest(),
            "max_new_tokens": self.generation.max_new_tokens,
            "choice": sorted(self.generation.choice.items()),
            "with_loss": self.generation.with_loss,
            "on_error": self.on_error,
            **more,
        }


def answer_all(model: nn.Module, job: Job, journal: Journal | None) -> Generator[Answered, None, list[Prediction]]:
    """Yield how far the questions are answered; return the predictions in the order of the data.

    Every process takes part; each question is answered by one of them, or was before the evaluation was interrupted.
    """
    asked = {question.number for question in job.questions}
    found = list(journal.answered()) if journal else []
    done = {own.number: own for own in gather_object(found) if own.number in asked}
    left = [question for question in job.questions if question.number not in done]
    mine = deal(left, job.batch_size, processes())[rank()]
    read = Reader(job.records, job.encoder, job.on_error)
    made: list[Prediction] = []
    with journal.writing(rank()) if journal else nullcontext() as note:
        for batch in predict(model, job.processor, read, mine, job.generation):
            made += batch
            if note:
                note(batch)
            yield Answered(min(len(asked), len(done) + len(made) * processes()), len(asked))
    done |= {own.number: own for own in gather_object(made)}
    return [done[number] for number in sorted(done)]


def probability_choices(processor: Phi3VProcessor, questions: Sequence[Question], chosen: Metrics) -> dict[str, Choice]:
    """Return, by source, what the probability of the positive answer is taken among; only where AUROC is scored."""
    found = {}
    for source, names in chosen.names.items():
        if "auroc" in names:
            answers = distinct_answers(own for own in questions if own.source == source)
            found[source] = choices(processor, answers, chosen.positive[source])
    return found
