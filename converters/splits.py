"""Splits by name and by group: clips of one group are cut from one video, and must never lie on both sides."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from fractions import Fraction

from phi3v.schema import UserError

# How the hub names the splits of a repository's files: train-00000-of-00008.parquet, data/validation-....
_SPLIT = re.compile(r"(?:^|[/_.-])(train|training|validation|valid|val|dev|eval|test)(?=[/_.-]|$)")
SPLIT_OF = {
    "train": "train",
    "training": "train",
    "validation": "val",
    "valid": "val",
    "val": "val",
    "dev": "val",
    "eval": "val",
    "test": "test",
}


def split_of(name: str) -> str | None:
    """Return the split that a file's or a split's name tells, if it does: the last word that is one."""
    found = _SPLIT.findall(name.lower())
    return SPLIT_OF[found[-1]] if found else None


def validation_groups(groups: Collection[int], fraction: float) -> frozenset[int]:
    """Return the highest-numbered `fraction` of a class's training groups: at least one, none of a lone group.

    Args:
        groups: the numbers of the class's training groups.
        fraction: 0 (no validation split) up to, but not including, 1.
    """
    ordered = sorted(set(groups))
    if fraction == 0 or len(ordered) <= 1:
        return frozenset()
    # Through the decimal text: 0.29 * 100 is 28.999... as a float.
    count = max(1, int(Fraction(str(fraction)) * len(ordered)))
    return frozenset(ordered[-count:])


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """Check the shares of a split by hash.

    Raises:
        UserError: they leave nothing for training.
    """
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
        what = f"--val_fraction {val_fraction} and --test_fraction {test_fraction} leave nothing for training"
        raise UserError(what, fix="give shares from 0 up, below 1 together")


def hashed_split(group: str, val_fraction: float, test_fraction: float) -> str:
    """Return the split of a group by its name alone: no other group, new or gone, moves it."""
    place = int.from_bytes(hashlib.sha256(group.encode(errors="surrogateescape")).digest()[:8], "big") / 2**64
    if place < val_fraction:
        return "val"
    return "test" if place < val_fraction + test_fraction else "train"
