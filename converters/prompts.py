"""Prompts are data: templates with named fields, and a choice among several that is the same every time.

`{question}` is a field, `{{` and `}}` are braces. Nothing else is special: no attributes, no calls, no formats.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches

from phi3v.schema import UserError

_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def fields_of(template: str) -> list[str]:
    """Return the names of a template's fields, in order.

    Raises:
        UserError: a brace that neither opens nor closes a field.
    """
    names = []
    for part in _PART.finditer(template):
        if part[0] in {"{", "}"} or part[1] == "":
            what = f"a {part[0]!r} in the template {template!r:.80} is no field"
            raise UserError(what, fix="write {{ and }} for braces, {name} for a field")
        if part[1] is not None:
            names.append(part[1])
    return names


def check_templates(flag: str, templates: Sequence[str], known: Collection[str]) -> None:
    """Check that templates name fields that there are.

    Args:
        flag: the option they come from, for the message.
        templates: any number.
        known: the fields' names.

    Raises:
        UserError: a field that is not known; the known ones are listed, and a near one is offered.
    """
    for template in templates:
        if not template.strip():
            raise UserError(f"an empty {flag}", fix=f"write a text; fields: {', '.join(sorted(known))}")
        for name in fields_of(template):
            if name not in known:
                raise unknown_name(f"{flag} names {{{name}}}", name, known)


def unknown_name(what: str, name: str, known: Collection[str]) -> UserError:
    """Return the error of a name that is not there: what there is, and the nearest."""
    near = get_close_matches(name, known, n=1) or [one for one in known if one.casefold() == name.casefold()]
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UserError(f"{what}, which is not there", fix=f"{hint}There are: {', '.join(sorted(known))}")


def fill(template: str, values: Mapping[str, str]) -> str:
    """Return the template with its fields filled; what a value holds is not looked at again."""
    marks = {"{{": "{", "}}": "}"}
    return _PART.sub(lambda part: marks.get(part[0]) or values[part[1]], template)


def choose(templates: Sequence[str], key: str, seed: int) -> int:
    """Return which of the templates a record has: by its key and the seed alone, so that no other record moves it."""
    if len(templates) == 1:
        return 0
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "big") % len(templates)
