"""Scores of a run's model: before, during and after, on all its processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from accelerate import PartialState
from torch import nn

from phi3v.schema import UserError
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.data import Records, find_evaluation
from phi3v.trainer.evaluate import Job, answer_all, probability_choices
from phi3v.trainer.events import Answered, Event, Note, Scored
from phi3v.trainer.generate import Generation
from phi3v.trainer.load import load_for_answers, weights_of
from phi3v.trainer.machine import Machine, is_first_process
from phi3v.trainer.plan import Reading, reading_of
from phi3v.trainer.predictions import Journal, predictions_path, scores_path, write_evaluation
from phi3v.trainer.questions import Question, sample, survey
from phi3v.trainer.scoring import choose_metrics, mean_loss, scores

WHOLE, DRAWN = 500, 200  # before training: all of so many samples, else so many of them


class Scorer:
    """The scores of one run.

    Args:
        config: the run's.
        records: what is scored on.
        reading: how the run reads records.
        computer: the run's: scores are taken in the precision of training.

    Attributes:
        metrics: how the data are scored.
        questions: what is asked, `--eval_limit` of them.
        total: what could be asked.

    Raises:
        UserError: the data do not have what a metric asked for needs.
    """

    def __init__(self, config: TrainConfig, records: Records, reading: Reading, computer: Machine) -> None:
        self._config = config
        self._records = records
        self._reading = reading
        self._computer = computer
        every = list(survey(records, reading.encoder, reading.max_length))
        self.total = len(every)
        self.questions = sample(every, config.eval_limit, config.seed)
        self.metrics = choose_metrics(self.questions, asked=config.metrics, positive_answer=config.positive_answer)
        self._choices = probability_choices(reading.processor, self.questions, self.metrics)

    def described(self) -> Iterator[str]:
        """Yield what is scored, on how many records, by what, and what is left out and why."""
        files = ", ".join(path.name for path in self._records.paths)
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
        folder, asked = self._config.output_dir, self.questions if questions is None else questions
        job, path = self._job(asked), predictions_path(folder, when)
        journal = Journal(path, self._about(job)) if resumable else None
        with self._computer.autocast():
            predictions = yield from answer_all(model, job, journal)
        if is_first_process():
            write_evaluation(predictions, self.metrics, answers=path, scores=scores_path(folder, when))
        unread = sum(own.error is not None for own in predictions)
        found = tuple(scores(predictions, self.metrics))
        yield Scored(when, found, mean_loss(predictions), len(predictions) - unread, unread)

    def _job(self, questions: Sequence[Question]) -> Job:
        longest = self._config.max_new_tokens
        return Job(
            records=self._records,
            encoder=self._reading.encoder,
            processor=self._reading.processor,
            questions=questions,
            generation=Generation(max_new_tokens=longest, choice=self._choices, with_loss=True),
            batch_size=self._config.eval_batch_size,
            on_error=self._config.on_error,
        )

    def _about(self, job: Job) -> dict[str, Any]:
        name = self._config.model_name_or_path
        return job.about(model=[name, weights_of(name)], kind=self._computer.kind)


def score_only(config: TrainConfig, computer: Machine) -> Iterator[Event]:
    """Score a model as it is, base or trained, and train nothing; the output folder gets the scores alone.

    Raises:
        UserError: the data or the model do not allow it.
    """
    files = find_evaluation(config.data_dir)
    if not files:
        fix = "name the file to score on <source>_val.jsonl"
        raise UserError("no *_val.jsonl and no labelled *_test.jsonl in this folder", where=config.data_dir, fix=fix)
    state = PartialState()  # the processes know of each other from here on
    records = Records(files)
    scorer = Scorer(config, records, reading_of(config, records), computer)
    yield from (Note(text) for text in scorer.described())
    model = load_for_answers(
        config.model_name_or_path, quantised=config.use_qlora, dtype=computer.dtype, attention=computer.attention
    )
    if is_first_process():
        config.output_dir.mkdir(parents=True, exist_ok=True)
    state.wait_for_everyone()
    yield from scorer.score(model, "only")
