"""Errors that users can act on."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


class UserError(Exception):
    """Something outside the program is wrong, and the user can fix it.

    Args:
        what: what is wrong, one sentence, no full stop, the offending value quoted.
        where: the file or folder, if there is one.
        fix: what to do about it, as an instruction or a command.
    """

    def __init__(self, what: str, *, where: Path | str | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where is not None else self.what
        return f"{head}\n  fix: {self.fix}" if self.fix else head

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions pickle by their positional args, which would lose where and fix on the way out of a worker.
        return (_rebuild, (self.what, self.where, self.fix))


def _rebuild(what: str, where: Path | str | None, fix: str | None) -> UserError:
    return UserError(what, where=where, fix=fix)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its kind if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def require(extra: str, *modules: str) -> None:
    """Check that the modules which an extra provides can be found, without importing them.

    Raises:
        UserError: one is not installed; the message names the extra that brings it.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise UserError(f"{', '.join(missing)} is not installed", fix=f"pip install 'phi3v[{extra}]'")
