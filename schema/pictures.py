"""The pictures that records name: each is looked at once, however often it is named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from phi3v.schema.locate import Path as Pointer
from phi3v.schema.options import Images
from phi3v.schema.parallel import Pool
from phi3v.schema.rules import Breach, quote

if TYPE_CHECKING:
    from phi3v.schema.images import Flaw, Look

_UNREADABLE = {"image-missing", "image-outside", "image-format", "image-broken", "image-size"}


class Pictures:
    """What is known of the pictures below one root.

    Args:
        root: where the images' paths start.
        depth: how closely to look; with `none` nothing is opened.
        pool: does the work.
        keep: remember each picture's size; else only that it was looked at, in 70 bytes.
    """

    def __init__(self, root: Path, depth: Images, pool: Pool, *, keep: bool) -> None:
        self.root = root
        self._depth = depth
        self._pool = pool
        self._keep = keep
        self._seen: set[int] = set()
        self._flaws: dict[str, tuple[Flaw, ...]] = {}
        self._looks: dict[str, Look] = {}

    def look(self, names: Iterable[str]) -> None:
        """Look at the pictures that were not looked at before."""
        if self._depth == "none":
            return
        new = [name for name in dict.fromkeys(names) if hash(name) not in self._seen]
        self._seen.update(map(hash, new))
        looks = self._pool.look_at_headers(self.root, new)
        decodable = [
            name
            for name, look in zip(new, looks, strict=True)
            if (self._depth == "full" or look.doubtful) and not any(flaw.code in _UNREADABLE for flaw in look.flaws)
        ]
        decoded = dict(zip(decodable, self._pool.decode([f"{self.root}/{name}" for name in decodable]), strict=True))
        for name, look in zip(new, looks, strict=True):
            if flaws := (*look.flaws, *decoded.get(name, ())):
                self._flaws[name] = flaws
            if self._keep:
                self._looks[name] = look

    def breaches(self, images: list[list[str]]) -> Iterator[Breach]:
        """Yield what is wrong with the pictures of a record, a list of names a turn."""
        if not self._flaws:
            return
        for path, name in named(images):
            for flaw in self._flaws.get(name, ()):
                below = f" below {self.root}" if flaw.code in {"image-missing", "image-outside"} else ""
                yield Breach(flaw.code, path, f"{quote(name)} {flaw.what}{below}")

    def sizes_of(self, names: Iterable[str]) -> list[tuple[int, int]] | None:
        """Return the widths and heights of pictures; None if one is not known."""
        looks = [self._looks.get(name) for name in names]
        sizes = [(look.width, look.height) for look in looks if look and look.width and not look.flaws]
        return sizes if len(sizes) == len(looks) else None

    def sizes(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Yield the name of each picture that could be read, and its width and height."""
        for name, look in self._looks.items():
            if look.width:
                yield name, (look.width, look.height)

    def files(self) -> Iterator[Path]:
        """Yield all pictures that were looked at."""
        return (self.root / name for name in self._looks)

    def bytes_of_files(self) -> Iterator[tuple[Path, int]]:
        """Yield the pictures that could be read, and how many bytes they have."""
        for name, look in self._looks.items():
            if look.size:
                yield self.root / name, look.size


def named(images: list[list[str]]) -> Iterator[tuple[Pointer, str]]:
    """Yield where in a record each picture is named, and its name."""
    for turn, names in enumerate(images):
        for number, name in enumerate(names):
            yield ("conversations", turn, "images", number), name
