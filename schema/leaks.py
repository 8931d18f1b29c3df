"""What two splits may not share: pictures, addresses, and the groups that a data set's own names tell.

A tie is what makes two records belong together. Two records with one tie in two splits are a leak.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from phi3v.schema.locate import Path as Pointer
from phi3v.schema.rules import Breach

if TYPE_CHECKING:
    from phi3v.schema.decoder import Decoders


class Tie(NamedTuple):
    """What a record shares with others: the code of the leak it would be, words for it, where the record has it."""

    code: str
    words: str
    path: Pointer


class Rule(NamedTuple):
    """How a data set's image names tell the group of a record: words for it, with the groups of a pattern in braces."""

    words: str
    pattern: re.Pattern[str]


# By the record's source. A group key in `metadata`, as our converters write it, counts for every source.
RULES = {
    "ucf101": Rule("UCF-101 group {0} g{1}", re.compile(r"v_(\w+?)_g(\d+)_c\d+")),
    "nlvr2": Rule("NLVR2 set {0}", re.compile(r"(?:^|/)((?:train|dev|test1|test2)-\d+)-\d+-img[01]\.")),
    "docvqa": Rule("document {0}", re.compile(r"(?:^|/)([a-z]{4}\d{4})_\d+\.")),
    "hateful_memes": Rule("meme {0}", re.compile(r"(?:^|/)0*(\d+)\.(?:png|jpg)$")),
}
_GROUP_KEYS = ("group", "group_key", "group_id")
_ADDRESS = re.compile(r"https?://\S+")


def ties_of(record: dict[str, Any]) -> list[Tie]:
    """Return what may tie a record to others, its pictures' content aside; each tie once."""
    ties = {tie.words: tie for tie in [*_ties_by_name(record), *_ties_by_metadata(record)]}
    return list(ties.values())


def _ties_by_name(record: dict[str, Any]) -> Iterator[Tie]:
    rule = RULES.get(record["source"])
    if rule is None:
        return
    for turn, fields in enumerate(record["conversations"]):
        for number, name in enumerate(fields.get("images", ())):
            if found := rule.pattern.search(name):
                path = ("conversations", turn, "images", number)
                yield Tie("leak-group", rule.words.format(*found.groups()), path)


def _ties_by_metadata(record: dict[str, Any]) -> Iterator[Tie]:
    for key, value in record.get("metadata", {}).items():
        if key in _GROUP_KEYS and isinstance(value, str | int):
            yield Tie("leak-group", f"group {value!r} of {record['source']}", ("metadata", key))
        elif isinstance(value, str) and _ADDRESS.fullmatch(value):
            yield Tie("leak-url", value, ("metadata", key))
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                if isinstance(inner, str) and _ADDRESS.fullmatch(inner):
                    yield Tie("leak-url", inner, ("metadata", key, number))


class Spot(NamedTuple):
    """A line: its file, which split that is, its number, and where to read it again.

    Attributes:
        block: the offset of its block; `row` is the line's number in that, from 0.
    """

    file: Path
    split: str
    line: int
    block: int
    row: int

    def __str__(self) -> str:
        return f"{self.file.name}:{self.line}"


class Leak(NamedTuple):
    """A breach at a line that is named by its spot."""

    spot: Spot
    breach: Breach


class Leaks:
    """Gathers the ties of all splits; memory grows with the number of different ties and pictures."""

    def __init__(self) -> None:
        self._ties: dict[str, dict[str, Spot]] = {}  # words -> split -> its first spot
        self._pictures: dict[Path, dict[str, tuple[Spot, Pointer]]] = {}  # file -> split -> where it is first named

    def add(self, spot: Spot, ties: Iterable[Tie], files: Iterable[tuple[Pointer, Path]]) -> Iterator[Breach]:
        """Note a record; yield the ties and picture files that another split has, too, if its split has them first.

        Args:
            spot: where it stands.
            ties: as `ties_of` gives them.
            files: its pictures, and where it names them.
        """
        yield from self._add_ties(spot, ties)
        for path, file in files:
            yield from self._add_picture(spot, path, file)

    def _add_ties(self, spot: Spot, ties: Iterable[Tie]) -> Iterator[Breach]:
        for tie in ties:
            spots = self._ties.setdefault(tie.words, {})
            if spots and spot.split not in spots:
                first = next(iter(spots.values()))
                yield Breach(tie.code, tie.path, f"{tie.words} is also in {first}")
            spots.setdefault(spot.split, spot)

    def _add_picture(self, spot: Spot, path: Pointer, file: Path) -> Iterator[Breach]:
        spots = self._pictures.setdefault(file, {})
        if spots and spot.split not in spots:
            first, _ = next(iter(spots.values()))
            yield Breach("leak-image", path, f"{file.name!r} is also in {first}")
        spots.setdefault(spot.split, (spot, path))

    def by_content(self, sizes: Mapping[Path, int]) -> Iterator[Leak]:
        """Yield the pictures of one split whose bytes another split has under another name.

        Args:
            sizes: of the files, in bytes: only what has the size of a picture of another split is read.
        """
        files_by_size: dict[int, list[Path]] = defaultdict(list)
        for file in self._pictures:
            if file in sizes:
                files_by_size[sizes[file]].append(file)
        by_digest: dict[bytes, list[Path]] = defaultdict(list)
        for files in files_by_size.values():
            if len({split for file in files for split in self._pictures[file]}) > 1:
                for file in files:
                    with suppress(OSError), file.open("rb") as content:  # it may have gone since its header was read
                        by_digest[hashlib.file_digest(content, "sha256").digest()].append(file)
        for digest, files in by_digest.items():
            yield from self._across("leak-image", files, f"has the bytes (sha256 {digest.hex()[:12]}...) of")

    def by_look(self, decoders: Decoders) -> Iterator[Leak]:
        """Yield the pictures of one split that look like one of another split."""
        from phi3v.schema.fingerprint import near_pairs

        files = list(self._pictures)
        prints = decoders.run([str(file) for file in files], "fingerprint")
        known = [(file, bits) for file, bits in zip(files, prints, strict=True) if bits is not None]
        for first, second in near_pairs([bits for _, bits in known]):
            bits = (known[first][1] ^ known[second][1]).bit_count()
            words = f"looks, but for {bits} of 64 bits, like"
            yield from self._across("leak-near-duplicate", [known[first][0], known[second][0]], words)

    def _across(self, code: str, files: list[Path], words: str) -> Iterator[Leak]:
        """Yield a leak for each file that lies in another split than the first."""
        first, *others = files
        splits = self._pictures[first]
        spot_of_first = next(iter(splits.values()))[0]
        for other in others:
            for split, (spot, path) in self._pictures[other].items():
                if split not in splits:
                    message = f"{other.name!r} {words} {first.name!r} in {spot_of_first}"
                    yield Leak(spot, Breach(code, path, message))
