"""How many tokens a record has in training: as the trainer's encoder counts them, without the encoder.

Texts are tokenised in chunks, each between two images, or from a prompt to its answer; every chunk before and after an
image has a beginning-of-sequence token of its own.

Source: the chat template and the tokenizer of microsoft/Phi-3.5-vision-instruct.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from phi3v.schema.errors import UserError, require
from phi3v.schema.rules import Breach, count_noun
from phi3v.schema.tokens import IMAGE_TAG, MAX_CROPS, image_tokens

Record = dict[str, Any]
Sizes = Sequence[tuple[int, int]]  # widths and heights of a record's images

_LINE = 2  # the released tokenizer writes the line feed after <|user|>, <|end|> and an image as two tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """How many tokens a record may have in training.

    Attributes:
        max_length: the most.
        num_crops: crops an image.
        tokenizer: a model's folder, to count texts exactly; without it only template and images are counted.
        byte_bound: without a tokenizer, warn if a record could be too long, were each byte of its texts a token.
    """

    max_length: int
    num_crops: int = MAX_CROPS
    tokenizer: Path | None = None
    byte_bound: bool = False


class Texts(NamedTuple):
    """The tokens of a record's texts.

    Attributes:
        template: those of the chat template, and the beginning-of-sequence tokens.
        text: those of the texts; their most, if they are not counted.
    """

    template: int
    text: int


def chunks(record: Record) -> Iterator[str]:
    """Yield the chunks of text of a record that fits the schema and the rules, as they are tokenised.

    A record whose last answer is open ends where the model must answer.
    """
    turns = record["conversations"]
    tagged = any(IMAGE_TAG.search(turn["user"]) for turn in turns)
    prompt = f"<|system|>\n{record['system']}<|end|>\n" if "system" in record else ""
    for number, turn in enumerate(turns, 1):
        images = len(turn.get("images", ()))
        if tagged:
            parts: list[str] = IMAGE_TAG.split(turn["user"])[::2]
        else:
            parts = [""] * images + ["\n" * bool(images) + turn["user"]]
        parts[0] = f"{prompt}<|user|>\n{parts[0]}"
        parts[-1] += "<|end|>\n<|assistant|>\n"
        yield from filter(None, parts)
        prompt = ""
        if "assistant" in turn:
            yield f"{turn['assistant']}<|end|>\n" + "<|endoftext|>" * (number == len(turns))


def count_exactly(record: Record, count: Callable[[str], int]) -> Texts:
    """Return the tokens of a record's texts, template included, by a tokenizer."""
    images = sum(len(turn.get("images", ())) for turn in record["conversations"])
    return Texts(1 + images, sum(map(count, chunks(record))))


def count_at_most(record: Record) -> Texts:
    """Return the template's tokens, and the most that the texts can have: as many as bytes, and one a chunk."""
    turns = record["conversations"]
    tagged = any(IMAGE_TAG.search(turn["user"]) for turn in turns)
    template, texts = 1, []
    if "system" in record:
        template += 2 * (1 + _LINE)
        texts.append(record["system"])
    for number, turn in enumerate(turns, 1):
        images = len(turn.get("images", ()))
        template += 2 * (1 + _LINE) + 1 + images  # user, end, assistant; a beginning after each image
        template += _LINE * (images > 0 and not tagged)
        texts += IMAGE_TAG.split(turn["user"])[::2]
        if "assistant" in turn:
            template += 1 + _LINE + (number == len(turns))
            texts.append(turn["assistant"])
    return Texts(template, sum(len(text.encode()) + 1 for text in texts))


def tokenizer_count(folder: Path) -> Callable[[str], int]:
    """Return a function that counts the tokens of a chunk with the tokenizer of a model's folder.

    Raises:
        UserError: the library or the file is not there, or the file is no tokenizer.
    """
    require("tokens", "tokenizers")
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError("no tokenizer.json in this folder", where=folder, fix="point --tokenizer at a model's folder")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no class of its own
        raise UserError(f"is no tokenizer ({error})", where=path, fix="copy it from the model again") from error
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


def length_breaches(texts: Texts, sizes: Sizes, limit: Limit) -> Iterator[Breach]:
    """Yield that a record is too long, or may be."""
    counted = texts if limit.tokenizer else texts._replace(text=0)
    least, most = (total(each, sizes, limit.num_crops) for each in (counted, texts))
    if least > limit.max_length:
        what = "tokens" if limit.tokenizer else "tokens without its texts"
        message = f"{least:,} {what}, more than {limit.max_length:,}"
        if not sizes:
            yield Breach("too-long", ("conversations",), f"{message}, without images")
            return
        message += f", with {count_noun(len(sizes), 'image')} at --num_crops {limit.num_crops}"
        crops = crops_that_fit(counted, sizes, limit.num_crops, limit.max_length)
        fix = f"--num_crops {crops} fits" if crops else "no --num_crops fits: take images or text out"
        yield Breach("too-long", ("conversations",), message, fix)
    elif limit.byte_bound and most > limit.max_length:
        yield Breach("maybe-too-long", ("conversations",), f"up to {most:,} tokens, more than {limit.max_length:,}")


def total(texts: Texts, sizes: Sizes, num_crops: int) -> int:
    """Return all tokens of a record with images of these widths and heights."""
    return sum(texts) + sum(image_tokens(*size, num_crops) for size in sizes)


def crops_that_fit(texts: Texts, sizes: Sizes, num_crops: int, max_length: int) -> int | None:
    """Return the largest number of crops below `num_crops` with which a record fits; None if none does."""
    for crops in range(num_crops - 1, 0, -1):
        try:
            if total(texts, sizes, crops) <= max_length:
                return crops
        except ValueError:  # at so few crops nothing is left of a thin image
            return None
    return None
