"""Which metrics a data set is scored by, and the scores of its predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan

from phi3v.schema import UserError
from phi3v.trainer import metrics
from phi3v.trainer.config import METRICS
from phi3v.trainer.questions import Question, distinct_answers

# The first of them is the one that counts; of those after it, the ones that the data allow.
BY_SOURCE = {
    "docvqa": ("anls", "anls_recipe", "exact_match"),
    "hateful_memes": ("accuracy", "auroc"),
    "nlvr2": ("accuracy", "consistency"),
}
POSITIVE = {"hateful_memes": "yes"}  # normalised
PER_SAMPLE: dict[str, Callable[[str, Sequence[str]], float]] = {
    "accuracy": metrics.is_correct,
    "exact_match": metrics.is_exact,
    "anls": metrics.anls,
    "anls_recipe": metrics.anls_recipe,
}
NEED_LISTS = ("anls", "anls_recipe", "exact_match")
MOST_CLASSES = 101  # UCF-101's; more answers than that, or as many as samples, are no classes
OTHER = "(another answer)"

assert set(METRICS) == {*PER_SAMPLE, "auroc", "consistency"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the model answered to one record, and what would have been right.

    Attributes:
        number: the record's place in the data.
        id, source: the record's.
        prompt: what the user says in the last turn.
        text: the answer.
        answers: the accepted ones; empty where there is nothing to score against.
        tokens: generated, the end included.
        probability: of the positive answer at the first token, among the answers in the data; None unless asked for.
        loss: summed over the `labelled` tokens of the last answer; None unless asked for.
        labelled: tokens of the last answer, its end included.
        group: as in `Question`.
        error: why it was not asked: an image that cannot be read.
    """

    number: int
    id: str
    source: str
    prompt: str
    text: str
    answers: tuple[str, ...] = ()
    tokens: int = 0
    probability: float | None = None
    loss: float | None = None
    labelled: int = 0
    group: str | None = None
    error: str | None = None

    @property
    def scored(self) -> bool:
        """Whether there is an answer, and something to score it against."""
        return bool(self.answers) and self.error is None

    @property
    def correct(self) -> bool:
        """Whether it is one of the accepted answers."""
        return metrics.is_correct(self.text, self.answers)


@dataclass(frozen=True, slots=True)
class Score:
    """A metric's value over so many samples (or groups), with its 95 % bootstrap interval."""

    metric: str
    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """How predictions are scored.

    Attributes:
        names: by source, the metrics; the first counts.
        positive: by source, the answer that AUROC is about, normalised.
        left_out: why a metric that goes with the source is not taken.
    """

    names: Mapping[str, tuple[str, ...]]
    positive: Mapping[str, str]
    left_out: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """The name of the score that counts: the first metric, or `score`, the mean over sources of several."""
        return next(iter(self.names.values()))[0] if len(self.names) == 1 else "score"

    @property
    def all_names(self) -> list[str]:
        """The names of all scores, the one that counts first."""
        if len(self.names) == 1:
            return list(next(iter(self.names.values())))
        return ["score", *(f"{source}/{name}" for source, names in self.names.items() for name in names)]

    def of_sample(self, prediction: Prediction) -> float | None:
        """Return the score of one prediction; None where there is nothing to score against."""
        if not prediction.scored:
            return None
        first = self.names[prediction.source][0]
        return float(PER_SAMPLE.get(first, metrics.is_correct)(prediction.text, prediction.answers))


def choose_metrics(
    questions: Sequence[Question], *, asked: Sequence[str] = (), positive_answer: str | None = None
) -> Metrics:
    """Return how the data are scored: as asked, else as their sources are.

    Raises:
        UserError: there is nothing to score against, or a metric asked for needs what the data do not have.
    """
    labelled = [question for question in questions if question.answer is not None]
    if not labelled:
        fix = "name labelled data, or let it be answered only: phi3v-model predict"
        raise UserError("no record has an answer to score against", fix=fix)
    sources = dict.fromkeys(question.source for question in labelled)
    positives = {source: metrics.normalise(positive_answer or POSITIVE.get(source, "")) for source in sources}
    names, left_out = {}, []
    for source in sources:
        own = [question for question in labelled if question.source == source]
        chosen = []
        for name in asked or BY_SOURCE.get(source, ("accuracy",)):
            lack = _lack(name, own, positives[source])
            if lack and asked:
                raise UserError(f"--metric {name}: {lack.what}", fix=lack.fix)
            if lack:
                left_out.append(f"{name} is left out: {lack.what}")
            else:
                chosen.append(name)
        names[source] = tuple(chosen or ["accuracy"])
    return Metrics(names=names, positive=positives, left_out=tuple(left_out))


def _lack(name: str, questions: Sequence[Question], positive: str) -> UserError | None:
    """Return what the data lack for a metric, and what to do about it."""
    without = sum(not question.listed for question in questions)
    if name in NEED_LISTS and without:
        what = f"{without} of {len(questions)} records have no 'answers', the list of all that is accepted"
        return UserError(what, fix="write it, or take --metric accuracy")
    if name == "consistency" and not any(question.group for question in questions):
        what = "no record tells its sentence by metadata.identifier, as NLVR2 has it (dev-850-0-1)"
        return UserError(what, fix="convert the data again, or take --metric accuracy")
    if name == "auroc":
        answers = distinct_answers(questions)
        if positive not in answers:
            given = (
                f"the positive answer {positive!r} is none of" if positive else "no positive answer is named; it is of"
            )
            listed = ", ".join(repr(answer) for answer in list(answers.values())[:5])
            return UserError(f"{given} the answers in the data: {listed}", fix="name it: --positive_answer TEXT")
        if len(answers) == 1:
            return UserError(f"every answer in the data is {answers[positive]!r}", fix="take --metric accuracy")
    return None


def scores(predictions: Sequence[Prediction], chosen: Metrics) -> list[Score]:
    """Return the scores of predictions, the one that counts first.

    With several sources that is the mean over all samples of each one's own metric, `score`; those of a source are
    named `source/metric`.
    """
    scored = [prediction for prediction in predictions if prediction.scored]
    found = []
    if len(chosen.names) > 1:
        found.append(_mean("score", [chosen.of_sample(prediction) or 0.0 for prediction in scored]))
    for source, names in chosen.names.items():
        own = [prediction for prediction in scored if prediction.source == source]
        prefix = f"{source}/" if len(chosen.names) > 1 else ""
        rows = [_score(name, own, chosen.positive[source]) for name in names] if own else []
        found += [replace(row, metric=prefix + row.metric) for row in rows if not isnan(row.value)]
    return found


def _score(name: str, predictions: Sequence[Prediction], positive: str) -> Score:
    if name == "auroc":
        probabilities = [own.probability or 0.0 for own in predictions]
        kinds = [metrics.normalise(own.answers[0]) == positive for own in predictions]
        value = metrics.auroc(probabilities, kinds)
        interval = (value, value) if isnan(value) else metrics.auroc_interval(probabilities, kinds)
        return Score(name, value, *interval, len(predictions))
    if name == "consistency":
        grouped = [own for own in predictions if own.group]
        whole = metrics.whole_groups((own.correct for own in grouped), (own.group for own in grouped))
        return _mean(name, [float(own) for own in whole])
    score = PER_SAMPLE[name]
    return _mean(name, [float(score(own.text, own.answers)) for own in predictions])


def _mean(name: str, values: Sequence[float]) -> Score:
    if not values:
        return Score(name, float("nan"), float("nan"), float("nan"), 0)
    return Score(name, sum(values) / len(values), *metrics.mean_interval(values), len(values))


def mean_loss(predictions: Sequence[Prediction]) -> float | None:
    """Return the loss per token of the last answers, or None where none was taken."""
    taken = [own for own in predictions if own.loss is not None]
    total = sum(own.labelled for own in taken)
    return sum(own.loss or 0.0 for own in taken) / total if total else None


def classes(predictions: Sequence[Prediction]) -> dict[str, Counter[str]] | None:
    """Return a table of classes, right answers against predictions; None where the answers are no classes."""
    scored = [own for own in predictions if own.scored]
    table = metrics.confusion(((own.answers[0], own.text) for own in scored), other=OTHER)
    return table if 1 < len(table) <= min(MOST_CLASSES, len(scored) // 2) else None
