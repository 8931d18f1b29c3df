"""What a check can find: the table of codes, and one finding with its place."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from phi3v.schema.errors import UserError

Severity = Literal["error", "warning"]


class Code(NamedTuple):
    """A kind of finding: what it means in a line, the usual remedy, why it matters, and how grave it is."""

    title: str
    fix: str
    why: str
    severity: Severity = "error"


CODES = {
    "json": Code(
        "the line is not one JSON object",
        "write the line again; a cut line means that a writer was stopped",
        "Each line is read by itself, so one that is not JSON is a sample that is lost, or that stops the run.",
    ),
    "encoding": Code(
        "the file is not JSON lines in plain UTF-8",
        "convert the file; the finding names the command",
        "A byte order mark, UTF-16, a compressed file or one JSON document over many lines look right in an editor, "
        "and no reader of JSON lines can take them.",
    ),
    "empty-file": Code(
        "the file holds no record",
        "write it again, or remove it",
        "An empty file mostly means that the program which wrote it was stopped.",
    ),
    "duplicate-key": Code(
        "an object names a key twice",
        "keep one of the two",
        "Readers take the last of the two in silence, or the first: what is trained on is not what you see.",
    ),
    "schema": Code(
        "the record breaks the JSON Schema",
        "compare with the schema: phi3v-data schema",
        "A field that is missing, misspelt or of another type would be left out in silence, or stop the run.",
    ),
    "duplicate-id": Code(
        "two records share an id",
        "give each record its own id",
        "Scores and ledgers name samples by id: of two with one id, one is counted for the other.",
    ),
    "missing-assistant": Code(
        "a turn before the last has no answer",
        "add 'assistant', or make it the last turn",
        "The model would read a conversation in which it was silent; only a last turn may wait for its answer.",
    ),
    "unanswered": Code(
        "a record to train on, or to score, has no answer in its last turn",
        "add 'assistant', or move the record to a *_test.jsonl",
        "A *_train.jsonl is trained on and a *_val.jsonl is scored: without an answer there is nothing to learn or to "
        "score against.",
    ),
    "blank-text": Code(
        "a text of the user or the assistant is nothing but white space",
        "write the text, or take the record out",
        "An answer of blanks teaches the model to answer with blanks, and mostly means that a column was empty.",
    ),
    "control-token": Code(
        "a text holds a control token of the model's tokenizer",
        "remove it; an image tag belongs into 'user' only",
        "The tokenizer turns it into the token itself: a turn that ends early, or one that the user never wrote.",
    ),
    "image-tag": Code(
        "the image tags do not name each image of the record once",
        "use each of 1..n once, or no tags at all",
        "Tag N is image N of the record: a tag too many has no picture, and an image without one would be lost.",
    ),
    "too-long": Code(
        "the record has more tokens than --max_length",
        "use fewer --num_crops or images, or a larger --max_length",
        "What does not fit is cut or skipped in training; a cut inside an image breaks the run.",
    ),
    "maybe-too-long": Code(
        "the record may have more tokens than --max_length",
        "count exactly: --tokenizer DIR",
        "Without a tokenizer, a text is only known to have no more tokens than bytes.",
        "warning",
    ),
    "answer-not-listed": Code(
        "the answer is none of the classes that the question lists",
        "spell the answer as in the list, or mend the list",
        "The model learns to answer outside the list, and an exact match can never be scored.",
        "warning",
    ),
    "image-missing": Code(
        "an image is not there",
        "put the file there, or point --image_root at the right folder",
        "One picture that cannot be read stops a run hours in.",
    ),
    "image-outside": Code(
        "an image lies outside the image root",
        "copy the file below the image root",
        "A link that leads out breaks when the data are copied, and may show files that were never meant as data.",
    ),
    "image-format": Code(
        "an image is of no format that is allowed",
        "convert it to JPEG or PNG",
        "Only BMP, GIF, JPEG, PNG and WebP are read: every further decoder is a further way for a file to break a run.",
    ),
    "image-broken": Code(
        "an image is empty, cut off or damaged",
        "copy or download it again, or take the record out",
        "A damaged picture stops the run, or is trained on half grey.",
    ),
    "image-size": Code(
        "an image has a size that cannot be used",
        "shrink it, crop it, or take the record out",
        "Too many pixels exhaust the memory; of a picture that is too thin nothing is left after resizing.",
    ),
    "image-extension": Code(
        "the name of an image tells another format than its content",
        "rename the file and its mentions",
        "It is read by its content here; other programs go by the name.",
        "warning",
    ),
    "image-trailing": Code(
        "something follows the end of an image in its file",
        "write the file anew, for example with Pillow",
        "Two files glued together, or a download with an error page at its end.",
        "warning",
    ),
    "leak-image": Code(
        "two splits hold the same picture",
        "keep the picture in one of the splits",
        "A score on pictures that were trained on is too good.",
        "warning",
    ),
    "leak-near-duplicate": Code(
        "two splits hold pictures that look the same",
        "look at both, and keep one of them",
        "Scaled and recompressed copies are as good as the picture itself.",
        "warning",
    ),
    "leak-url": Code(
        "two splits hold pictures from the same address",
        "keep what came from one address in one split",
        "The same address is the same picture, even where the files are not at hand.",
        "warning",
    ),
    "leak-group": Code(
        "two splits share a group that belongs together",
        "split by group: all of a group goes to one split",
        "Clips of one UCF-101 group, pages of one document, pairs of one NLVR2 set and one meme's copies resemble each "
        "other: a score across them is too good.",
        "warning",
    ),
}


def code_of(name: str) -> Code:
    """Return an entry of the table.

    Raises:
        UserError: there is no such code; the nearest is named.
    """
    if name not in CODES:
        from difflib import get_close_matches

        near = get_close_matches(name, CODES, 1)
        fix = f"did you mean {near[0]!r}?" if near else f"the codes are {', '.join(CODES)}"
        raise UserError(f"there is no code {name!r}", fix=fix)
    return CODES[name]


def explain(name: str) -> str:
    """Return what a code means, why it matters and how to mend it, as docs/codes.md has it.

    Raises:
        UserError: there is no such code.
    """
    code = code_of(name)
    return f"{name} ({code.severity}): {code.title}\n\n{code.why}\n\nTo mend it: {code.fix}.\n"


def codes_page() -> str:
    """Return docs/codes.md, which is generated."""
    head = (
        "# Codes of findings\n\nGenerated: `phi3v-data explain --all > docs/codes.md`. Errors make "
        "`phi3v-data validate` exit with 1; warnings only with `--strict`.\n"
    )
    parts = (
        f"\n## {name}\n\n{code.severity.capitalize()}: {code.title}.\n\n{code.why}\n\nTo mend it: {code.fix}.\n"
        for name, code in CODES.items()
    )
    return head + "".join(parts)


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A piece of a line around a value: `length` characters of `text` from `start` on are the value."""

    text: str
    start: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong in a file.

    Attributes:
        code: a key of `CODES`; stable.
        file: the path as the user gave it.
        line: 1-based.
        column: 1-based, in characters: where the offending value starts.
        end_column: just after the value.
        pointer: its JSON Pointer in the line; empty for the whole line.
        message: what is wrong, with the value quoted.
        fix: what to do about it.
        excerpt: the value and what stands around it; None if the finding is about the whole file.
    """

    code: str
    file: str
    line: int
    column: int
    end_column: int
    pointer: str
    message: str
    fix: str
    excerpt: Excerpt | None = None

    @property
    def severity(self) -> Severity:
        """How grave it is: errors make a data set unusable, warnings make it doubtful."""
        return CODES[self.code].severity

    def __str__(self) -> str:
        pointer = f"{self.pointer}: " if self.pointer else ""
        return f"{self.file}:{self.line}:{self.column}: {self.code}: {pointer}{self.message}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, as the JSON report has them."""
        fields = asdict(self)
        del fields["excerpt"]
        return {"code": fields.pop("code"), "severity": self.severity, **fields}
