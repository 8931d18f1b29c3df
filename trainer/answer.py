"""Ask a model at hand: one question, or a whole file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from phi3v.schema import Conversation, RecordError, Turn, UserError
from phi3v.trainer.data import Examples, Records, check_files, first_open
from phi3v.trainer.encode import Encoder
from phi3v.trainer.evaluate import Prediction, generate
from phi3v.trainer.evaluate import predict as predict_examples
from phi3v.trainer.load import load_model, load_processor


def answer(name: str, question: str, images: Sequence[str], *, max_new_tokens: int) -> str:
    """Return a model's answer to one question about pictures.

    Args:
        name: the model, as `load_model` takes it.
        question: may place the pictures by `<|image_N|>`; else they come first.
        images: paths.
        max_new_tokens: where an answer that does not end is cut.

    Raises:
        UserError: the model or a picture cannot be read, or the tags do not name each picture once.
    """
    processor = load_processor(name)
    try:
        # Records name images below a root; here that is the root of the file system.
        paths = tuple(str(Path(image).resolve().relative_to("/")) for image in images)
        record = Conversation(id="question", source="predict", turns=(Turn(user=question, images=paths),))
        prompt = Encoder(processor, Path("/"))(record, answered=False)
    except RecordError as error:
        raise UserError(str(error), fix="mend the question") from error
    return generate(_on_device(name), processor, [prompt], max_new_tokens=max_new_tokens)[0]


def answer_file(name: str, path: Path, *, batch_size: int, max_new_tokens: int) -> Iterator[Prediction]:
    """Yield a model's answers to the records of a file.

    Raises:
        UserError: the model cannot be loaded, or the file has findings or no answers.
    """
    check_files([path])
    records = Records([path])
    if first_open(path):
        raise UserError(
            "no 'assistant' in the last turn: nothing to score against", where=path, fix="name a labelled file"
        )
    processor = load_processor(name)
    prompts = Examples(records, Encoder(processor, path.parent / "images"), answered=False)
    yield from predict_examples(
        _on_device(name), processor, prompts, batch_size=batch_size, max_new_tokens=max_new_tokens
    )


def _on_device(name: str) -> torch.nn.Module:
    return load_model(name).to("cuda" if torch.cuda.is_available() else "cpu")
