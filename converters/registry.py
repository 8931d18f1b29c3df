"""The converters by name.

The built-in ones are a literal table: entry points are read at install time, and a checkout that was not
installed again would miss new ones. Other packages add theirs by the entry-point group `phi3v.converters`.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from phi3v.converters.base import Converter
from phi3v.schema import UserError
from phi3v.schema.errors import first_line

GROUP = "phi3v.converters"
NAMES = ("docvqa", "folder", "hateful_memes", "hub", "nlvr2", "table", "ucf101")
CONVERTERS = {name: f"phi3v.converters.{name}" for name in NAMES}
PARTS = ("SUMMARY", "MODULES", "Options", "plan", "render")


def names() -> list[str]:
    """Return the names of the built-in converters and of other packages', without importing any."""
    return sorted(CONVERTERS.keys() | _plugins().keys())


def converter(name: str) -> Converter:
    """Return the converter of this name; a built-in one goes before a plug-in.

    Raises:
        UserError: there is none, and the nearest names are offered; or its package cannot be imported.
    """
    if name in CONVERTERS:
        return cast("Converter", import_module(CONVERTERS[name]))
    plugins = _plugins()
    if name not in plugins:
        near = get_close_matches(name, names(), n=1)
        fix = f"did you mean {near[0]}?" if near else f"choose one of: {', '.join(names())}"
        raise UserError(f"no converter is called {name!r}", fix=fix)
    return _load(plugins[name])


def summary(name: str) -> str:
    """Return a converter's line for `--help`; a plug-in that cannot be imported is told, and harms no other."""
    try:
        return converter(name).SUMMARY
    except UserError as error:
        return f"cannot be used: {error.what}"


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _load(point: EntryPoint) -> Converter:
    package = point.dist.name if point.dist else point.module
    fix = f"repair or uninstall {package}"
    try:
        module = point.load()
    except (Exception, SystemExit) as error:  # whatever somebody else's import does
        what = f"plug-in {point.name!r} of {package} cannot be imported ({type(error).__name__}: {first_line(error)})"
        raise UserError(what, fix=fix) from error
    if missing := [part for part in PARTS if not hasattr(module, part)]:
        raise UserError(f"plug-in {point.name!r} of {package} is no converter: no {', '.join(missing)}", fix=fix)
    return cast("Converter", module)
