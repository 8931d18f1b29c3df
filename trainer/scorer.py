"""Scores of a run's model: before, during and after, on all its processes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn

from phi3v.schema import UserError
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.evaluate import Choice, Generation, Reader, choices, predict
from phi3v.trainer.events import Answered, Event, Note, Scored
from phi3v.trainer.load import load_model, load_quantised, weights_of
from phi3v.trainer.machine import Machine, is_first_process, processes, rank
from phi3v.trainer.plan import Data, open_data
from phi3v.trainer.predictions import (
    Journal,
    note,
    predictions_path,
    remove_journals,
    scores_path,
    write_predictions,
    write_scores,
)
from phi3v.trainer.questions import Question, deal, distinct_answers, sample, survey
from phi3v.trainer.scoring import Metrics, Prediction, choose_metrics, mean_loss, scores

WHOLE, DRAWN = 500, 200  # before training: all of so many samples, else so many of them
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Job(NamedTuple):
    """What an evaluation does, whichever model it is of.

    Attributes:
        questions: in the order of the data.
        metrics: None where nothing is scored.
        generation: how answers are generated.
        batch_size: most answers at a time.
    """

    questions: Sequence[Question]
    metrics: Metrics | None
    generation: Generation
    batch_size: int


def answer_all(
    model: nn.Module, data: Data, job: Job, journal: Journal | None
) -> Iterator[Answered | list[Prediction]]:
    """Yield how far the questions are answered, and last the predictions in the order of the data.

    Every process takes part; each question is answered by one of them, or was before the evaluation was interrupted.
    """
    asked = {question.number for question in job.questions}
    found = list(journal.answered()) if journal else []
    done = {own.number: own for own in gather_object(found) if own.number in asked}
    left = [question for question in job.questions if question.number not in done]
    mine = deal(left, job.batch_size, processes())[rank()]
    assert data.evaluation is not None, "a job has questions"
    read = Reader(data.evaluation, data.encoder)
    made: list[Prediction] = []
    with journal.writing(rank()) if journal else nullcontext() as file:
        for batch in predict(model, data.processor, read, mine, job.generation):
            made += batch
            if file:
                note(file, batch)
            yield Answered(min(len(asked), len(done) + len(made) * processes()), len(asked))
    done |= {own.number: own for own in gather_object(made)}
    yield [done[number] for number in sorted(done)]


class Scorer:
    """The scores of one run.

    Args:
        config: the run's.
        data: the run's; has records to score on.
        computer: the run's: scores are taken in the precision of training.

    Attributes:
        metrics: how the data are scored.
        questions: what is asked, `--eval_limit` of them.
        total: what could be asked.

    Raises:
        UserError: the data do not have what a metric asked for needs.
    """

    def __init__(self, config: TrainConfig, data: Data, computer: Machine) -> None:
        assert data.evaluation is not None, "a run without records to score on has no scorer"
        self._config = config
        self._data = data
        self._computer = computer
        every = list(survey(data.evaluation, data.encoder, data.max_length))
        self.total = len(every)
        self.questions = sample(every, config.eval_limit, config.seed)
        self.metrics = choose_metrics(self.questions, asked=config.metrics, positive_answer=config.positive_answer)
        self._choices = probability_choices(data, self.questions, self.metrics)

    def described(self) -> Iterator[str]:
        """Yield what is scored, on how many records, by what, and what is left out and why."""
        assert self._data.evaluation is not None
        files = ", ".join(path.name for path in self._data.evaluation.paths)
        asked = len(self.questions)
        drawn = f" of {self.total}, drawn by seed {self._config.seed}" if asked < self.total else ""
        unlabelled = sum(question.answer is None for question in self.questions)
        unscored = f"; {unlabelled} without an answer are predicted, not scored" if unlabelled else ""
        yield f"scored on {files}: {asked} records{drawn}{unscored}, by {', '.join(self.metrics.all_names)}"
        yield from self.metrics.left_out
        if 0 < (first := len(self.first_questions())) < asked:
            yield f"before training on {first} of them, drawn by seed {self._config.seed}; --eval_before all for all"

    def first_questions(self) -> list[Question]:
        """Return what is asked before training, as `--eval_before` says."""
        wish, count = self._config.eval_before, len(self.questions)
        if wish == "none":
            return []
        if wish is None:
            return sample(self.questions, None if count <= WHOLE else DRAWN, self._config.seed)
        return sample(self.questions, None if wish == "all" else int(wish), self._config.seed)

    def score(
        self, model: nn.Module, when: str, questions: Sequence[Question] | None = None, *, resumable: bool = True
    ) -> Iterator[Answered | Scored]:
        """Answer, score and write: yield how far it is, and last the scores, which every process gets.

        Args:
            model: the run's, as it stands.
            when: `before`, `after`, `only` or `step-N`; part of the files' names.
            questions: instead of all.
            resumable: keep a journal; not where an interrupted run comes to this point again with other weights.
        """
        folder = self._config.output_dir
        generation = Generation(max_new_tokens=self._config.max_new_tokens, choice=self._choices, with_loss=True)
        job = Job(self.questions if questions is None else questions, self.metrics, generation, self._batch_size())
        path = predictions_path(folder, when)
        journal = Journal(path, self._about(job)) if resumable else None
        predictions: list[Prediction] = []
        with autocast(self._computer):
            for event in answer_all(model, self._data, job, journal):
                if isinstance(event, Answered):
                    yield event
                else:
                    predictions = event
        found = scores(predictions, self.metrics)
        if is_first_process():
            write_predictions(path, predictions, self.metrics)
            write_scores(scores_path(folder, when), predictions, self.metrics)
            remove_journals(path)
        yield Scored(when, tuple(found), mean_loss(predictions), len(predictions))

    def _batch_size(self) -> int:
        return self._config.eval_batch_size

    def _about(self, job: Job) -> dict[str, Any]:
        name = self._config.model_name_or_path
        return about(job, model=[name, weights_of(name)], kind=self._computer.kind)


def score_only(config: TrainConfig, computer: Machine) -> Iterator[Event]:
    """Score a model as it is, base or trained, and train nothing; the output folder gets the scores alone.

    Raises:
        UserError: the data or the model do not allow it.
    """
    data = open_data(config)
    if data.evaluation is None:
        fix = "name the file to score on <source>_val.jsonl"
        raise UserError("no *_val.jsonl and no labelled *_test.jsonl in this folder", where=config.data_dir, fix=fix)
    state = PartialState()  # the processes know of each other from here on
    scorer = Scorer(config, data, computer)
    yield from (Note(text) for text in scorer.described())
    dtype = TYPES[computer.kind] if config.use_qlora else torch.float32
    load = load_quantised if config.use_qlora else load_model
    model = load(config.model_name_or_path, dtype=dtype, attention=computer.attention)
    if is_first_process():
        config.output_dir.mkdir(parents=True, exist_ok=True)
    state.wait_for_everyone()
    yield from scorer.score(model if config.use_qlora else model.to(state.device), "only")


def about(job: Job, **more: Any) -> dict[str, Any]:
    """Return what makes an evaluation's answers its own."""
    asked = repr([(own.number, own.tokens, own.how, own.answer) for own in job.questions])
    return {
        "questions": hashlib.sha256(asked.encode()).hexdigest(),
        "max_new_tokens": job.generation.max_new_tokens,
        "choice": sorted(job.generation.choice.items()),
        "with_loss": job.generation.with_loss,
        **more,
    }


def probability_choices(data: Data, questions: Sequence[Question], chosen: Metrics) -> dict[str, Choice]:
    """Return, by source, what the probability of the positive answer is taken among; only where AUROC is scored."""
    found = {}
    for source, names in chosen.names.items():
        if "auroc" in names:
            answers = distinct_answers(own for own in questions if own.source == source)
            found[source] = choices(data.processor, answers, chosen.positive[source])
    return found


def autocast(computer: Machine) -> AbstractContextManager[Any]:
    """Return what the forwards of training run under, so that scores are of the model as it trains."""
    if computer.kind == "fp32":
        return nullcontext()
    return torch.autocast("cuda" if torch.cuda.is_available() else "cpu", dtype=TYPES[computer.kind])
