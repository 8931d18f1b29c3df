"""The converters by name.

The built-in ones are a literal table: entry points are read at install time, and a checkout that was not
installed again would miss new ones.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import cast

from phi3v.converters.base import Converter
from phi3v.schema import UserError

CONVERTERS = {"ucf101": "phi3v.converters.ucf101"}


def converter(name: str) -> Converter:
    """Return the converter of this name.

    Raises:
        UserError: there is none; the nearest names are offered.
    """
    if name not in CONVERTERS:
        near = get_close_matches(name, CONVERTERS, n=1)
        fix = f"did you mean {near[0]}?" if near else f"choose one of: {', '.join(CONVERTERS)}"
        raise UserError(f"no converter is called {name!r}", fix=fix)
    return cast("Converter", import_module(CONVERTERS[name]))
