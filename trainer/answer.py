"""Ask a model at hand: one question, or the records of a file."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from phi3v.schema import Conversation, RecordError, Turn, UserError
from phi3v.trainer.config import KINDS
from phi3v.trainer.data import Policy, Records, check_files
from phi3v.trainer.evaluate import Job, answer_all, probability_choices
from phi3v.trainer.events import Answered
from phi3v.trainer.generate import Generation, generate
from phi3v.trainer.load import check_weights, load_for_answers, settings_of, weights_of
from phi3v.trainer.machine import Machine, precision
from phi3v.trainer.plan import reading
from phi3v.trainer.predictions import Journal
from phi3v.trainer.questions import sample, survey
from phi3v.trainer.scoring import Metrics, Prediction, choose_metrics

SEED = 42  # of --eval_limit


class Wish(NamedTuple):
    """What is asked of a file.

    Attributes:
        scored: whether the answers are to be scored.
        metrics: names; none for those of the data's sources.
        positive_answer: what AUROC is about.
        limit: so many records at most.
        batch_size: most answers at a time; None for as many as `deal` says.
        max_new_tokens: where an answer that does not end is cut.
        num_crops: most crops of an image; None for the model's own.
        on_error: what to do with an image that cannot be read.
        journal: beside which file an interruption leaves the answers so far; None for nowhere.
    """

    scored: bool
    metrics: tuple[str, ...] = ()
    positive_answer: str | None = None
    limit: int | None = None
    batch_size: int | None = None
    max_new_tokens: int = 64
    num_crops: int | None = None
    on_error: Policy = "fail"
    journal: Path | None = None


class Answers(NamedTuple):
    """The predictions of a file's records in order, and how they are scored."""

    predictions: list[Prediction]
    metrics: Metrics | None


def answer(
    name: str, question: str, images: Sequence[str], *, max_new_tokens: int, num_crops: int | None = None
) -> Iterator[str]:
    """Yield a model's answer to one question about pictures, piece by piece as it is generated.

    Args:
        name: the model, as `load_model` takes it.
        question: may place the pictures by `<|image_N|>`; else they come first.
        images: paths.
        max_new_tokens: where an answer that does not end is cut.
        num_crops: most crops of an image; None for the model's own.

    Raises:
        UserError: the model or a picture cannot be read, or the tags do not name each picture once.
    """
    check_weights(name)
    try:
        # Records name images below a root; here that is the root of the file system.
        paths = tuple(str(Path(image).resolve().relative_to("/")) for image in images)
        record = Conversation(id="question", source="predict", turns=(Turn(user=question, images=paths),))
        read = reading(name, Path("/"), [record], num_crops=num_crops)
        prompt = read.encoder(record, answered=False)
    except RecordError as error:
        raise UserError(str(error), fix="mend the question") from error
    model, computer = load_for_answers(name).eval(), _machine(name)
    how = Generation(max_new_tokens=max_new_tokens, choice={})
    pieces = TextIteratorStreamer(
        read.processor.tokenizer, skip_prompt=True, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    left = Event()
    options = {"streamer": pieces, "stopping_criteria": StoppingCriteriaList([_Left(left)])}

    def write() -> None:
        with computer.autocast():
            generate(model, read.processor, [prompt], how, **options)

    # generate() pushes its tokens; who asks pulls them, and may leave before the end.
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        writing.add_done_callback(lambda _: pieces.end())  # an error ends them, too
        try:
            yield from filter(None, pieces)
        finally:
            left.set()
        writing.result()


class _Left(StoppingCriteria):  # type: ignore[misc]  # transformers has no types
    """Ends generation where nobody reads it any more."""

    def __init__(self, left: Event) -> None:
        self._left = left

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:  # noqa: ARG002
        return torch.full((len(input_ids),), self._left.is_set(), device=input_ids.device)


def answer_file(name: str, path: Path, wish: Wish) -> Generator[Answered, None, Answers]:
    """Yield how far a model has answered the records of a file; return the answers.

    Raises:
        UserError: the model cannot be loaded, the file has findings, or there is nothing to score against.
    """
    check_weights(name)
    check_files([path])
    records, computer = Records([path]), _machine(name)
    read = reading(name, path.parent / "images", records, num_crops=wish.num_crops)
    questions = sample(list(survey(records, read.encoder, read.max_length)), wish.limit, SEED)
    chosen = (
        choose_metrics(questions, asked=wish.metrics, positive_answer=wish.positive_answer) if wish.scored else None
    )
    choice = probability_choices(read.processor, questions, chosen) if chosen else {}
    job = Job(
        records=records,
        encoder=read.encoder,
        processor=read.processor,
        questions=questions,
        generation=Generation(max_new_tokens=wish.max_new_tokens, choice=choice),
        batch_size=wish.batch_size,
        on_error=wish.on_error,
    )
    model = load_for_answers(name, dtype=computer.dtype)
    about = job.about(model=[name, weights_of(name)], data=str(path), kind=computer.kind)
    with computer.autocast():
        found = yield from answer_all(model, job, Journal(wish.journal, about) if wish.journal else None)
    return Answers(found, chosen)


def _machine(name: str) -> Machine:
    """Return what a model is asked with: in the precision of the run that made it, where this machine has that."""
    run = settings_of(name)
    kind = next((own for own in KINDS if run.get(own)), None)
    try:
        return Machine(precision(kind), "sdpa", "runs everywhere")
    except UserError:
        return Machine(precision(), "sdpa", "runs everywhere")
