"""What `phi3v-data validate` takes: names, defaults and help, which the command line reads from here."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from phi3v.schema.errors import UserError
from phi3v.schema.findings import CODES, code_of
from phi3v.schema.tokens import MAX_CROPS

Format = Literal["text", "json", "sarif", "junit", "github"]
Images = Literal["none", "header", "full"]
_RANGES = (
    ("jobs", 1, 1024),
    ("max_findings", 1, sys.maxsize),
    ("max_length", 1, sys.maxsize),
    ("num_crops", 1, MAX_CROPS),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `phi3v-data validate` takes beside the files."""

    image_root: Annotated[Path | None, "Where image paths start; by default images/ beside each file."] = None
    images: Annotated[Images, "How closely to look at images: full decodes them to the last byte."] = "header"
    max_length: Annotated[
        int | None, "The most tokens of a record: image and template tokens, texts by --tokenizer."
    ] = None
    num_crops: Annotated[int, "Crops an image, for --max_length."] = MAX_CROPS
    tokenizer: Annotated[Path | None, "A model's folder, to count the tokens of texts (needs phi3v[tokens])."] = None
    byte_bound: Annotated[bool, "Without --tokenizer, warn if the texts' bytes might be too many tokens."] = False
    near_duplicates: Annotated[bool, "Between the splits of a folder, also find images that look alike (slow)."] = False
    select: Annotated[str | None, "Report only these codes or groups, as in json,image."] = None
    ignore: Annotated[str | None, "Do not report these codes or groups."] = None
    strict: Annotated[bool, "Exit with 1 on warnings, too."] = False
    max_findings: Annotated[int | None, "Stop after so many findings."] = None
    format: Annotated[Format, "Of the report."] = "text"
    output: Annotated[Path | None, "Where the report goes, instead of to standard output."] = None
    statistics: Annotated[bool, "Say how often each code was found, and which answers each file of a folder has."] = (
        False
    )
    quarantine: Annotated[bool, "Move lines with an error to NAME.rejected.jsonl, with their findings."] = False
    jobs: Annotated[int, "Processes."] = 1
    cache_dir: Annotated[Path | None, "Remember results here: unchanged files take no time."] = None

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            UserError: a value is out of range, a folder is not there, or two options don't go together.
        """
        for name, least, most in _RANGES:
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise UserError(f"--{name} is {value}", fix=f"{least} to {most}")
        for folder in (self.image_root, self.tokenizer):
            if folder is not None and not folder.is_dir():
                raise UserError("no such folder", where=folder)
        for name in [*names_in(self.select), *names_in(self.ignore)]:
            if not any(is_in(code, name) for code in CODES):
                code_of(name)
        self._check_pairs()

    def _check_pairs(self) -> None:
        if self.quarantine and self.max_findings is not None:
            raise UserError("--quarantine needs all findings", fix="leave --max_findings out")
        if self.max_length is None and (self.tokenizer or self.byte_bound):
            raise UserError("--tokenizer and --byte_bound count for --max_length", fix="give --max_length, too")
        if self.max_length is not None and self.images == "none":
            raise UserError("--max_length needs the images' sizes", fix="leave --images none out")


def names_in(text: str | None) -> list[str]:
    """Return the names in a list with commas."""
    return [name.strip() for name in text.split(",")] if text else []


def is_in(code: str, name: str) -> bool:
    """Return whether a code is named, or belongs to a named group: image-size to image."""
    return code == name or code.startswith(f"{name}-")
