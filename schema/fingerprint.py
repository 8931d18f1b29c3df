"""64 bits that tell whether two pictures look the same, however they are scaled and compressed."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator

from PIL import Image

from phi3v.schema.images import FORMATS

MOST_DIFFERENT = 3  # bits: four bands of 16 bits each then leave at least one alike
_BANDS, _BITS = 4, 16
_FLAT = 4  # bits set, or left: such a picture has hardly any structure to compare


def fingerprint(path: str) -> int | None:
    """Return the difference hash of a picture: which of each two neighbours in 8 rows of 9 grey pixels is lighter.

    None if it cannot be read, or is too flat: all pictures of one colour look the same.
    For a process of its own, as all decoding.

    Source: N. Krawetz, "Kind of Like That" (2013), dHash.
    """
    try:
        with warnings.catch_warnings(), Image.open(path, formats=FORMATS) as image:
            warnings.simplefilter("ignore")
            image.draft("L", (36, 32))  # a JPEG is decoded at an eighth of its size
            pixels = image.convert("L").resize((9, 8), Image.Resampling.BOX).tobytes()
    except Exception:  # noqa: BLE001  # parsers of hostile files raise whatever they stumble over; `decode` says what
        return None
    lighter = [pixels[9 * row + column] < pixels[9 * row + column + 1] for row in range(8) for column in range(8)]
    bits = sum(bit << place for place, bit in enumerate(lighter))
    return bits if _FLAT <= bits.bit_count() <= 64 - _FLAT else None


def near_pairs(fingerprints: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield the pairs (i, j), i < j, of fingerprints that differ in at most `MOST_DIFFERENT` bits.

    Time is linear but for fingerprints that share 16 bits: only these are compared.
    """
    bands: dict[tuple[int, int], list[int]] = defaultdict(list)
    known: list[int] = []
    for number, bits in enumerate(fingerprints):
        keys = [(band, bits >> (band * _BITS) & (1 << _BITS) - 1) for band in range(_BANDS)]
        near = {other for key in keys for other in bands[key] if (known[other] ^ bits).bit_count() <= MOST_DIFFERENT}
        yield from ((other, number) for other in sorted(near))
        for key in keys:
            bands[key].append(number)
        known.append(bits)
