"""Setting the bad rows of a file aside, so that the good ones can be used."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from phi3v.schema.check import REJECTED
from phi3v.schema.errors import UserError
from phi3v.schema.findings import Finding
from phi3v.schema.jsonl import atomic_write, read_lines


class Split(NamedTuple):
    """What became of a file's rows."""

    kept: int
    rejected: int
    aside: Path


def quarantine(path: Path, findings: Mapping[int, Sequence[Finding]]) -> Split:
    """Keep the rows without an error in the file; append the others to `<name>.rejected.jsonl`, with their findings.

    Both files appear whole. The rejected rows are written first: a kill in between leaves a row in both, never in none.

    Args:
        path: the file.
        findings: the errors of each line, by its number.

    Raises:
        UserError: the files cannot be written.
    """
    aside = path.with_name(path.stem + REJECTED)
    kept = rejected = 0
    if not findings:
        return Split(sum(1 for _ in read_lines(path)), 0, aside)
    try:
        with atomic_write(path) as good, atomic_write(aside) as bad:
            if aside.exists():
                with aside.open("rb") as earlier:
                    shutil.copyfileobj(earlier, bad)
            for line in read_lines(path):
                if own := findings.get(line.number):
                    bad.write(json.dumps(_row(line.data, own), ensure_ascii=False).encode() + b"\n")
                    rejected += 1
                else:
                    good.write(line.data + b"\n")
                    kept += 1
    except OSError as error:
        raise UserError(f"cannot write here ({error.strerror})", where=path.parent, fix="free some space") from error
    return Split(kept, rejected, aside)


def _row(data: bytes, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return a rejected row: its bytes can be had back from `text`, or from `base64` if they are no UTF-8."""
    try:
        content = {"text": data.decode()}
    except UnicodeDecodeError:
        content = {"base64": base64.b64encode(data).decode()}
    return {"line": findings[0].line, **content, "findings": [finding.to_dict() for finding in findings]}
