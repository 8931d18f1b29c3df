"""Answers in batches are those of one record at a time."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from phi3v.schema import UserError
from phi3v.trainer.collate import collate
from phi3v.trainer.data import Records
from phi3v.trainer.encode import Encoder, Example
from phi3v.trainer.generate import (
    Choice,
    Generation,
    Reader,
    choices,
    generate,
    predict,
)
from phi3v.trainer.losses import answer_losses, labelled_tail, prompt_of
from phi3v.trainer.model import Phi3VForCausalLM, Phi3VProcessor
from phi3v.trainer.model.modeling import IGNORED
from phi3v.trainer.model.tiny import tiny_model, tiny_processor
from phi3v.trainer.questions import Ask, deal, survey
from phi3v.trainer.scoring import Prediction

Colours = Callable[..., Path]


@pytest.fixture(scope="module")
def processor() -> Phi3VProcessor:
    made = tiny_processor()
    made.image_processor.num_crops = 1
    return made


@pytest.fixture(scope="module")
def model(processor: Phi3VProcessor) -> Phi3VForCausalLM:
    return tiny_model(processor).eval()


@pytest.fixture
def data(colours: Colours, processor: Phi3VProcessor) -> tuple[Records, Encoder]:
    """9 records of 0 to 2 pictures and many lengths; two without an answer."""
    folder = colours("test", 9, images=lambda number: number % 3, unlabelled=(3, 7))
    return Records([folder / "colours_test.jsonl"]), Encoder(processor, folder / "images")


def ask(
    model: Any, processor: Phi3VProcessor, data: tuple[Records, Encoder], batch_size: int, **how: Any
) -> list[Prediction]:
    questions = list(survey(*data, 100_000))
    (asks,) = deal(questions, batch_size, 1)
    generation = Generation(max_new_tokens=6, **({"choice": {}, "with_loss": True} | how))
    found = [own for batch in predict(model, processor, Reader(*data), asks, generation) for own in batch]
    return sorted(found, key=lambda own: own.number)


@pytest.mark.parametrize("batch_size", [2, 4, 9])
def test_a_batch_answers_as_one_at_a_time_does(
    model: Any, processor: Phi3VProcessor, data: tuple[Records, Encoder], batch_size: int
) -> None:
    alone = ask(model, processor, data, 1)

    together = ask(model, processor, data, batch_size)

    assert [own.text for own in together] == [own.text for own in alone]
    assert [own.tokens for own in together] == [own.tokens for own in alone]
    assert [own.loss or 0 for own in together] == pytest.approx([own.loss or 0 for own in alone], rel=1e-4)


def test_every_record_is_answered_and_told(
    model: Any, processor: Phi3VProcessor, data: tuple[Records, Encoder]
) -> None:
    found = ask(model, processor, data, 4)

    assert [own.id for own in found] == [f"test-{number}" for number in range(9)]
    assert [own.answers for own in found if own.number in {3, 7}] == [(), ()]
    assert [own.loss is None for own in found] == [own.number in {3, 7} for own in found]
    assert found[1].prompt == "Which colour? Say it."
    assert {own.source for own in found} == {"colours"}


def test_a_batch_asked_again_is_not_counted(
    model: Any, processor: Phi3VProcessor, data: tuple[Records, Encoder]
) -> None:
    questions = list(survey(*data, 100_000))
    asks = [Ask((questions[0],)), Ask((questions[1],), again=True)]

    batches = list(predict(model, processor, Reader(*data), asks, Generation(max_new_tokens=1, choice={})))

    assert [len(batch) for batch in batches] == [1, 0]


def test_a_prompt_is_the_training_sample_cut_before_its_last_answer(data: tuple[Records, Encoder]) -> None:
    records, encoder = data
    for number in (0, 1, 2, 4):
        whole = encoder(records[number])

        prompt = prompt_of(whole)

        assert prompt.input_ids == encoder(records[number], answered=False).input_ids
        assert prompt.input_ids + whole.input_ids[-labelled_tail(whole) :] == whole.input_ids
        assert set(prompt.labels) == {IGNORED}


def test_a_loss_is_the_models_own(model: Any, processor: Phi3VProcessor, data: tuple[Records, Encoder]) -> None:
    records, encoder = data
    examples = [encoder(records[number]) for number in (0, 1, 2, 5)]

    losses = answer_losses(model, processor, examples)

    for example, loss in zip(examples, losses, strict=True):
        batch = collate([example], pad_id=0)
        assert loss == pytest.approx(model(**batch, num_items_in_batch=1).loss.item(), rel=1e-4)


def test_a_loss_is_of_the_last_answer_alone(model: Any, processor: Phi3VProcessor, tmp_path: Path) -> None:
    from phi3v.schema import Conversation, Turn

    turns = (Turn(user="One?", assistant="first answer, rather long"), Turn(user="Two?", assistant="second"))
    long = Turn(user="Three?", assistant="an answer that is longer than the whole of the other record, by far " * 3)
    encoder = Encoder(processor, tmp_path)
    two = encoder(Conversation(id="a", source="s", turns=turns))
    other = encoder(Conversation(id="b", source="s", turns=(long,)))

    (loss, _) = answer_losses(model, processor, [two, other])

    end = len(two.input_ids)
    labels = [IGNORED] * (end - labelled_tail(two)) + two.labels[end - labelled_tail(two) :]
    batch = collate([two], pad_id=0) | {"labels": torch.tensor([labels])}
    assert loss == pytest.approx(model(**batch, num_items_in_batch=1).loss.item(), rel=1e-4)


def test_a_loss_goes_on_from_the_prompt_and_is_that_of_the_whole_record(
    model: Any, processor: Phi3VProcessor, data: tuple[Records, Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    records, encoder = data
    examples = [encoder(records[number]) for number in (0, 1, 2, 5)]
    whole = answer_losses(model, processor, examples)
    encoded = []
    embed = model.model.vision_embed_tokens
    forward = embed.forward
    monkeypatch.setattr(embed, "forward", lambda *args: encoded.append(1) or forward(*args))

    answers = generate(model, processor, examples, Generation(max_new_tokens=6, choice={}, with_loss=True))

    assert [own.loss for own in answers] == pytest.approx(whole, rel=1e-4)
    assert len(encoded) == 1, "the pictures are encoded once"


@pytest.mark.parametrize("length", [4080, 4091, 4096, 4097])
def test_a_loss_across_the_long_rope_factors_is_that_of_the_whole_record(
    model: Any, processor: Phi3VProcessor, length: int
) -> None:
    """The answer's last tokens turn by the long factors, and so do the prompt's: its keys are computed anew."""
    draw = torch.Generator().manual_seed(length)
    ids = torch.randint(300, 700, (length,), generator=draw).tolist()
    labels = [IGNORED] * (length - 9) + ids[-9:]
    examples = [
        Example(id="long", input_ids=ids, labels=labels, images=None, answers=()),
        Example(id="short", input_ids=ids[-40:], labels=labels[-40:], images=None, answers=()),
    ]

    answers = generate(model, processor, examples, Generation(max_new_tokens=4, choice={}, with_loss=True))

    for example, answer in zip(examples, answers, strict=True):
        batch = collate([example], pad_id=0)
        assert answer.loss == pytest.approx(model(**batch, num_items_in_batch=1).loss.item(), rel=1e-4)


def test_a_batch_of_which_nothing_can_be_read_is_told_and_run_through(
    model: Any, processor: Phi3VProcessor, data: tuple[Records, Encoder], tmp_path: Path
) -> None:
    """Other processes may have pictures at that time: this one runs as many forwards."""
    records = data[0]
    numbers = [number for number in range(9) if number % 3]
    questions = [own for own in survey(*data, 100_000) if own.number in numbers]
    read = Reader(records, Encoder(processor, tmp_path / "nowhere"), "skip")

    (found,) = predict(model, processor, read, [Ask(tuple(questions))], Generation(max_new_tokens=2, choice={}))

    assert [own.number for own in found] == numbers
    assert all(own.error and "cannot read this image" in own.error and not own.scored for own in found)
    with pytest.raises(UserError, match="cannot read this image"):
        read = Reader(records, Encoder(processor, tmp_path / "nowhere"))
        list(predict(model, processor, read, [Ask(tuple(questions))], Generation(max_new_tokens=2, choice={})))


def test_a_probability_is_of_the_first_token_among_those_of_the_answers(
    model: Any, processor: Phi3VProcessor, data: tuple[Records, Encoder]
) -> None:
    choice = choices(processor, {"red": "red", "blue": "blue"}, "red")

    found = ask(model, processor, data, 4, choice={"colours": choice})

    records, encoder = data
    for number in (0, 1, 2, 5):
        prompt = encoder(records[number], answered=False)
        batch = collate([prompt], pad_id=0)
        del batch["labels"]
        with torch.no_grad():
            logits = model(**batch, logits_to_keep=1).logits[0, -1]
        red, blue = logits[choice.positive[0]].exp(), logits[choice.others[0]].exp()
        assert found[number].probability == pytest.approx(float(red / (red + blue)), rel=1e-4)


def test_no_probability_is_taken_unless_asked_for(
    model: Any, processor: Phi3VProcessor, data: tuple[Records, Encoder]
) -> None:
    assert {own.probability for own in ask(model, processor, data, 9, with_loss=False)} == {None}


def test_answers_that_begin_alike_have_no_probability(processor: Phi3VProcessor) -> None:
    with pytest.raises(UserError, match="'not red' begins with the same token as another answer"):
        choices(processor, {"not red": "not red", "not blue": "not blue"}, "not red")
    assert isinstance(choices(processor, {"red": "red", "blue": "blue"}, "blue"), Choice)


def test_tokens_are_counted_with_the_end(model: Any, processor: Phi3VProcessor, data: tuple[Records, Encoder]) -> None:
    records, encoder = data
    prompts = [encoder(records[number], answered=False) for number in range(4)]

    class Ends:
        """Ends row i after i tokens."""

        def __init__(self) -> None:
            self.written = 0

        def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            for row in range(len(ids)):
                scores[row, processor.end_ids[1]] = 1e9 if self.written >= row else -1e9
                scores[row, processor.end_ids[0]] = -1e9
            self.written += 1
            return scores

    from phi3v.trainer import generate as module

    ends, kept = Ends(), module._FirstScores.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module._FirstScores, "__call__", lambda self, ids, scores: ends(ids, kept(self, ids, scores)))
        answers = generate(model, processor, prompts, Generation(max_new_tokens=3, choice={}))

    assert [own.tokens for own in answers] == [1, 2, 3, 3]  # the last was cut


@pytest.mark.slow
def test_a_row_that_outgrows_its_keys_keeps_no_other_process_waiting(tmp_path: Path) -> None:
    """Where weights are divided; the answers and losses are those of one process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}

    def start(name: str, **more: str) -> subprocess.Popen[str]:
        folder = tmp_path / name
        folder.mkdir()
        command = [sys.executable, str(Path(__file__).with_name("divided_answers.py")), str(folder)]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **more}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    processes = [start("alone"), *(start(rank, RANK=rank, LOCAL_RANK=rank, **meeting) for rank in "01")]
    try:
        outputs = [process.communicate(timeout=200) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()

    assert all("RESULT" in out for out, _ in outputs), "".join(err for _, err in outputs)[-3000:]
    alone, first, second = (json.loads(out.partition("RESULT ")[2].splitlines()[0]) for out, _ in outputs)
    assert [text for text, _ in first + second] == [text for text, _ in alone]
    assert [loss for _, loss in first + second] == pytest.approx([loss for _, loss in alone], rel=1e-4)
