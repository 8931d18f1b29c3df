"""Ask a model at hand: one question, or the records of a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any, NamedTuple

import torch

from phi3v.schema import Conversation, RecordError, Turn, UserError
from phi3v.schema.errors import require
from phi3v.trainer.config import FILE_NAME
from phi3v.trainer.data import Records, check_files
from phi3v.trainer.encode import Encoder
from phi3v.trainer.evaluate import Generation, generate
from phi3v.trainer.events import Answered
from phi3v.trainer.load import check_weights, is_adapter, load_model, load_on_quantised, load_processor, weights_of
from phi3v.trainer.plan import Data, longest
from phi3v.trainer.predictions import Journal
from phi3v.trainer.questions import sample, survey
from phi3v.trainer.scorer import Job, about, answer_all, probability_choices
from phi3v.trainer.scoring import Metrics, Prediction, choose_metrics

SEED = 42  # of --eval_limit


class Wish(NamedTuple):
    """What is asked of a file.

    Attributes:
        scored: whether the answers are to be scored.
        metrics: names; none for those of the data's sources.
        positive_answer: what AUROC is about.
        limit: so many records at most.
        batch_size: most answers at a time.
        max_new_tokens: where an answer that does not end is cut.
        journal: beside which file an interruption leaves the answers so far; None for nowhere.
    """

    scored: bool
    metrics: tuple[str, ...] = ()
    positive_answer: str | None = None
    limit: int | None = None
    batch_size: int = 8
    max_new_tokens: int = 64
    journal: Path | None = None


class Answers(NamedTuple):
    """The predictions of a file's records in order, and how they are scored."""

    predictions: list[Prediction]
    metrics: Metrics | None


def answer(name: str, question: str, images: Sequence[str], *, max_new_tokens: int) -> Iterator[str]:
    """Yield a model's answer to one question about pictures, piece by piece as it is generated.

    Args:
        name: the model, as `load_model` takes it.
        question: may place the pictures by `<|image_N|>`; else they come first.
        images: paths.
        max_new_tokens: where an answer that does not end is cut.

    Raises:
        UserError: the model or a picture cannot be read, or the tags do not name each picture once.
    """
    check_weights(name)
    processor = load_processor(name)
    try:
        # Records name images below a root; here that is the root of the file system.
        paths = tuple(str(Path(image).resolve().relative_to("/")) for image in images)
        record = Conversation(id="question", source="predict", turns=(Turn(user=question, images=paths),))
        prompt = Encoder(processor, Path("/"))(record, answered=False)
    except RecordError as error:
        raise UserError(str(error), fix="mend the question") from error
    model = _on_device(name)
    pieces = _Pieces(processor.tokenizer)
    # generate() pushes its tokens; who asks pulls them.
    writer = Thread(target=pieces.fill, args=(generate, model, processor, [prompt], max_new_tokens))
    writer.start()
    yield from pieces
    writer.join()


class _Pieces:
    """Text as it is generated; what transformers takes for a streamer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._queue: Queue[str | BaseException | None] = Queue()
        self._ids: list[int] = []
        self._prompted = False

    def fill(self, write: Any, *args: Any) -> None:
        """Generate into this; an error is raised where the pieces are read."""
        try:
            write(*args, streamer=self)
        except BaseException as error:  # noqa: BLE001  # the boundary of a thread
            self._queue.put(error)
        self._queue.put(None)

    def put(self, ids: torch.Tensor) -> None:
        """Take the prompt, and then one token after another."""
        if self._prompted:
            self._ids += ids.tolist()
            self._queue.put(self._tokenizer.decode(self._ids, skip_special_tokens=True))
        self._prompted = True

    def end(self) -> None:
        """Take the end; `fill` tells it."""

    def __iter__(self) -> Iterator[str]:
        told = ""
        while (text := self._queue.get()) is not None:
            if isinstance(text, BaseException):
                raise text
            # Not half a character, of which the next token has the rest, nor a token that is no text.
            if not text.endswith("\ufffd") and text != told and text.startswith(told):
                yield text[len(told) :]
                told = text


def answer_file(name: str, path: Path, wish: Wish) -> Iterator[Answered | Answers]:
    """Yield how far a model has answered the records of a file, and last the answers.

    Raises:
        UserError: the model cannot be loaded, the file has findings, or there is nothing to score against.
    """
    check_weights(name)
    check_files([path])
    records = Records([path])
    processor = load_processor(name)
    encoder = Encoder(processor, path.parent / "images")
    run = _run_settings(name)  # pictures are cut as in the run that made the model
    most = longest(processor, run.get("max_length"), run.get("max_tokens_per_gpu"))
    data = Data(records=records, evaluation=records, processor=processor, encoder=encoder, max_length=most)
    questions = sample(list(survey(records, encoder, data.max_length)), wish.limit, SEED)
    chosen = (
        choose_metrics(questions, asked=wish.metrics, positive_answer=wish.positive_answer) if wish.scored else None
    )
    choice = probability_choices(data, questions, chosen) if chosen else {}
    job = Job(questions, chosen, Generation(max_new_tokens=wish.max_new_tokens, choice=choice), wish.batch_size)
    journal = (
        Journal(wish.journal, about(job, model=[name, weights_of(name)], data=str(path))) if wish.journal else None
    )
    for event in answer_all(_on_device(name), data, job, journal):
        yield event if isinstance(event, Answered) else Answers(event, chosen)


def _run_settings(name: str) -> dict[str, Any]:
    """Return the settings of the run which made a model, or none if it is not known."""
    path = Path(name) / FILE_NAME
    settings: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
    return settings


def _on_device(name: str) -> torch.nn.Module:
    if is_adapter(name) and _run_settings(name).get("use_qlora"):
        require("qlora", "bitsandbytes")
        return load_on_quantised(name)  # scored as it was trained; it lies where it was quantised
    return load_model(name).to("cuda" if torch.cuda.is_available() else "cpu")
