"""Splits by group: clips of one group are cut from one video, and must never lie on both sides."""

from __future__ import annotations

from collections.abc import Collection
from fractions import Fraction


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
