"""What a check can find: the table of codes, and one finding with its place."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple


class Code(NamedTuple):
    """A kind of finding: what it means in a line, and the usual remedy."""

    title: str
    fix: str


CODES = {
    "json": Code("the line is not one JSON object", "write the line again; a cut line means that a writer was stopped"),
    "schema": Code("the record breaks the JSON Schema", "compare with the schema: phi3v-data schema"),
    "duplicate-id": Code("two records share an id", "give each record its own id"),
    "missing-assistant": Code("a turn before the last has no answer", "add 'assistant', or make it the last turn"),
    "control-token": Code(
        "a text holds a control token of the model's tokenizer", "remove it; an image tag belongs into 'user' only"
    ),
    "image-tag": Code(
        "the image tags do not name each image of the record once", "use each of 1..n once, or no tags at all"
    ),
    "image-missing": Code("an image is not there", "put the file there, or point --image_root at the right folder"),
    "image-outside": Code("an image lies outside the image root", "copy the file below the image root"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong in a file.

    Attributes:
        code: a key of `CODES`; stable.
        file: the path as the user gave it.
        line: 1-based.
        column: 1-based, in characters: where the offending value starts.
        pointer: its JSON Pointer in the line; empty for the whole line.
        message: what is wrong, with the value quoted.
        fix: what to do about it.
    """

    code: str
    file: str
    line: int
    column: int
    pointer: str
    message: str
    fix: str

    def __str__(self) -> str:
        pointer = f"{self.pointer}: " if self.pointer else ""
        return f"{self.file}:{self.line}:{self.column}: {self.code}: {pointer}{self.message}"

    def to_dict(self) -> dict[str, str | int]:
        """Return the fields by name, as the JSON report has them."""
        return asdict(self)
