"""Check JSONL files against the contract: lines by themselves, then what needs other lines, pictures or files.

Streams: memory does not grow with a file but for 70 bytes an id, and as much a picture. Prints nothing.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from phi3v.schema.contract import schema_text
from phi3v.schema.errors import UserError
from phi3v.schema.findings import Finding
from phi3v.schema.ids import Ids, Place
from phi3v.schema.jsonl import Block, read_block
from phi3v.schema.leaks import Leaks, Spot
from phi3v.schema.lengths import Limit, length_breaches
from phi3v.schema.lines import Known, Wants, role_of
from phi3v.schema.options import Images
from phi3v.schema.parallel import Pool
from phi3v.schema.pictures import Pictures, named
from phi3v.schema.rules import Breach
from phi3v.schema.syntax import Fault, file_fault
from phi3v.schema.wording import Wording

REJECTED = ".rejected.jsonl"  # what --quarantine puts aside: no data
_FIRST_LINE = 1 << 16  # bytes of a file that tell what kind of file it is

__all__ = ["Checker", "Images", "Limit", "check", "jsonl_files", "schema_text"]


def check(path: Path, *, image_root: Path | None = None, images: Images = "header") -> Iterator[Finding]:
    """Yield what is wrong with one file, in the order of its lines; see `Checker`."""
    return Checker(image_root=image_root, images=images).check(path)


def jsonl_files(folder: Path) -> list[Path]:
    """Return the data files of a converted folder in name order.

    Raises:
        UserError: there is none.
    """
    # Hidden ones are files that a writer has not finished; the rejected ones are ledgers of failures.
    found = sorted(
        path
        for path in folder.glob("*.jsonl")
        if path.is_file() and not path.name.startswith(".") and not f".{path.name}".endswith(REJECTED)
    )
    if not found:
        raise UserError("no .jsonl file in this folder", where=folder, fix="convert first: phi3v-data convert --help")
    return found


class Checker:
    """Checks files one after another; ids must be unique across all that one checker has seen.

    Args:
        image_root: where the images' paths start; `images/` beside each file if None.
        images: `none` of them, their `header`, or decode them in `full`.
        limit: of tokens a record; needs the images' headers.
        across: gather what splits must not share, for `leaks`.
        jobs: processes.
        remember: keep the names and sizes of the pictures, for `pictures` and `sizes`.
        watch: called with the number of lines read so far, every few hundred of them.

    Attributes:
        records: lines read so far.
        labels: how many records of each file have which last answer; filled if `across`.
    """

    def __init__(  # noqa: PLR0913  # what to check, and how
        self,
        *,
        image_root: Path | None = None,
        images: Images = "header",
        limit: Limit | None = None,
        across: bool = False,
        jobs: int = 1,
        remember: bool = False,
        watch: Callable[[int], None] | None = None,
    ) -> None:
        self.records = 0
        self.labels: dict[Path, Counter[str]] = {}
        self._keep = across or remember or limit is not None
        self._watch = watch
        self._image_root = image_root
        self._images = images
        self._limit = limit
        self._leaks = Leaks() if across else None
        self._ids = Ids()
        self._pictures: dict[Path, Pictures] = {}
        self._pool = Pool(jobs)
        weakref.finalize(self, self._pool.close)

    def check(self, path: Path) -> Iterator[Finding]:
        """Yield the findings of one file.

        Raises:
            UserError: the file cannot be read, or is a pipe or a folder.
        """
        if path.exists() and not path.is_file():
            fix = "save it as a file first: lines with findings are read a second time"
            raise UserError("is no regular file", where=path, fix=fix)
        before = self.records
        try:
            if fault := _whole_file_fault(path):
                yield Wording(str(path), 1, None).of_fault(fault)
                return
            yield from self._check_blocks(path)
        except OSError as error:
            what = f"cannot read it ({error.strerror})"
            raise UserError(what, where=path, fix="name a readable file") from error
        if self.records == before:
            yield Wording(str(path), 1, None).of_fault(Fault("empty-file", 1, 2, "there is no line in it"))

    def leaks(self, *, near_duplicates: bool = False) -> Iterator[Finding]:
        """Yield the pictures that splits share under two names, once all files are checked; needs `across`.

        Args:
            near_duplicates: also those that only look the same; decodes every picture.
        """
        assert self._leaks is not None, "nothing was gathered"
        files = {file: size for pictures in self._pictures.values() for file, size in pictures.bytes_of_files()}
        found = list(self._leaks.by_content(files))
        if near_duplicates:
            same = {(leak.spot, leak.breach.path) for leak in found}
            near = self._leaks.by_look(self._pool.decoders)
            found += [leak for leak in near if (leak.spot, leak.breach.path) not in same]
        for leak in sorted(found, key=lambda leak: leak.spot):
            spot = leak.spot
            line = read_block(spot.file, spot.block, spot.row + 1)[-1]
            yield Wording(str(spot.file), spot.line, line.removesuffix(b"\n")).of(leak.breach)

    def pictures(self) -> Iterator[Path]:
        """Yield the pictures that were looked at; needs `remember`."""
        return (file for pictures in self._pictures.values() for file in pictures.files())

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Return width and height of each picture that could be read, by its name in the records; needs `remember`."""
        return {name: size for pictures in self._pictures.values() for name, size in pictures.sizes()}

    def _check_blocks(self, path: Path) -> Iterator[Finding]:
        for block, known in self._pool.look(path, self._wants(path)):
            self.records += len(known.ids)
            if self._watch:
                self._watch(self.records)
            if known.labels:
                counts = self.labels.setdefault(path, Counter())
                counts.update(label for label in known.labels if label is not None)
            place = Place(path, block.number, block.offset, len(known.ids))
            found = self._beyond_lines(place, known)
            if found or known.findings:
                yield from _in_order(place, block, known.findings, found)

    def _wants(self, path: Path) -> Wants:
        limit, across = self._limit, self._leaks is not None
        return Wants(
            answered=role_of(path) in {"train", "val"},
            images=self._images != "none" or across,
            lengths=limit is not None,
            tokenizer=limit.tokenizer if limit else None,
            ties=across,
        )

    def _beyond_lines(self, place: Place, known: Known) -> dict[int, list[Breach]]:
        """Return what is wrong with a block's lines that takes more than each line by itself, by their index."""
        found: dict[int, list[Breach]] = {}
        for index, breach in self._ids.add(place, known.ids):
            found.setdefault(index, []).append(breach)
        if known.images:
            root = self._image_root or place.path.parent / "images"
            if root not in self._pictures:
                self._pictures[root] = Pictures(root, self._images, self._pool, keep=self._keep)
            pictures = self._pictures[root]
            pictures.look(name for images in known.images if images for names in images for name in names)
            for index in range(place.lines):
                if breaches := list(self._about_pictures(pictures, place, index, known)):
                    found.setdefault(index, []).extend(breaches)
        return found

    def _about_pictures(self, pictures: Pictures, place: Place, index: int, known: Known) -> Iterator[Breach]:
        images = known.images[index]
        if images is None:
            return
        yield from pictures.breaches(images)
        if self._limit and (texts := known.texts[index]):
            sizes = pictures.sizes_of(name for names in images for name in names)
            if sizes is not None:
                yield from length_breaches(texts, sizes, self._limit)
        if self._leaks and (ties := known.ties[index]) is not None:
            split = role_of(place.path) or place.path.stem
            spot = Spot(place.path, split, place.number + index, place.offset, index)
            yield from self._leaks.add(spot, ties, ((path, pictures.root / name) for path, name in named(images)))


def _whole_file_fault(path: Path) -> Fault | None:
    with path.open("rb") as file:
        start = file.readline(_FIRST_LINE)
    return file_fault(path, start)


def _in_order(
    place: Place, block: Block, findings: dict[int, list[Finding]], found: dict[int, list[Breach]]
) -> Iterator[Finding]:
    """Yield all findings of a block, from left to right in each line."""
    lines = block.lines or read_block(place.path, place.offset, place.lines)
    for index in sorted(findings.keys() | found.keys()):
        words = Wording(str(place.path), place.number + index, lines[index].removesuffix(b"\n"))
        own = findings.get(index, []) + [words.of(breach) for breach in found.get(index, [])]
        yield from sorted(own, key=lambda finding: (finding.column, finding.end_column))
