"""Answers in one process of two between which the weights are divided (FSDP2); test_generate.py starts it.

Rank 0 has a sample with an image that outgrows 4,096 tokens while it is answered, rank 1 a short one without. Prints
the texts, and the losses of the right answers.

Usage: divided_answers.py [FOLDER], with torchrun's variables; without them both samples are answered here.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from PIL import Image
from torch.distributed.fsdp import fully_shard

from phi3v.schema import Conversation, Turn
from phi3v.trainer.encode import Encoder, Example
from phi3v.trainer.generate import Generation, generate
from phi3v.trainer.losses import prompt_of
from phi3v.trainer.model.tiny import tiny_model, tiny_processor

LIMIT, WRITTEN = 4096, 6


def examples(folder: Path) -> list[Example]:
    """Return the two samples; the prompt of the first ends three tokens below the limit."""
    processor = tiny_processor()
    processor.image_processor.num_crops = 1
    encoder = Encoder(processor, folder)
    Image.new("RGB", (64, 48), "red").save(folder / "red.png")

    def sample(words: int) -> Example:
        turn = Turn(user="What is this?" + " a" * words, assistant="A red picture.", images=("red.png",))
        return encoder(Conversation(id="long", source="s", turns=(turn,)))

    more = LIMIT - 3 - len(prompt_of(sample(0)).input_ids)
    long = sample(more)
    assert len(prompt_of(long).input_ids) == LIMIT - 3, len(prompt_of(long).input_ids)
    turn = Turn(user="Who signed the letter?", assistant="The director.")
    return [long, encoder(Conversation(id="short", source="s", turns=(turn,)))]


def answers(folder: Path) -> list[list[object]]:
    """Return text and loss of each sample that this process answers."""
    torch.manual_seed(0)
    processor = tiny_processor()
    model, own = tiny_model(processor).eval(), examples(folder)
    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")
        layers = [*model.model.layers, *model.model.vision_embed_tokens.img_processor.vision_model.encoder.layers]
        for part in [*layers, model]:
            fully_shard(part)
        own = own[int(os.environ["RANK"]) :][:1]
    how = Generation(max_new_tokens=WRITTEN, choice={}, with_loss=True)
    made = [generate(model, processor, [example], how, min_new_tokens=WRITTEN)[0] for example in own]
    return [[answer.text, answer.loss] for answer in made]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("RESULT " + json.dumps(answers(Path(sys.argv[1]))), flush=True)  # noqa: T201  # read by the test
    os._exit(0)
