"""Files from the Hugging Face hub or an address, with errors that say how to get them by hand."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from phi3v.schema import UserError
from phi3v.schema.errors import first_line

TIMEOUT = 60.0  # seconds without a byte
TRIES = 3


def hub_file(repo: str, name: str, *, by_hand: str) -> Path:
    """Return the local path of a file in a data set repository, downloaded unless it is cached.

    HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and the user's token count, as huggingface_hub has it.

    Args:
        repo: the data set, `owner/name`.
        name: the file in it.
        by_hand: what to do where the hub cannot be reached.

    Raises:
        UserError: the hub cannot be reached, does not have the file, or keeps it for those who applied.
    """
    from huggingface_hub import hf_hub_download

    with _hub_told(repo, name, by_hand):
        return Path(hf_hub_download(repo, name, repo_type="dataset"))


class Fetched(NamedTuple):
    """Files of a repository, at one of its commits, in path order."""

    revision: str
    files: list[Path]


def hub_files(repo: str, pattern: str, *, by_hand: str) -> Fetched:
    """Return the files of a data set repository that match, downloaded unless they are cached.

    Args:
        repo: the data set, `owner/name`.
        pattern: of the files' paths in it, such as `nlvr2/*.parquet`; * passes over slashes.
        by_hand: what to do where the hub cannot be reached.

    Raises:
        UserError: as `hub_file` does; or no file matches.
    """
    from huggingface_hub import snapshot_download

    with _hub_told(repo, pattern, by_hand):
        folder = Path(snapshot_download(repo, repo_type="dataset", allow_patterns=pattern))
    named = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    files = [named[name] for name in sorted(named) if fnmatchcase(name, pattern)]
    if not files:
        raise UserError(f"the hub's {repo} has no {pattern}", fix=by_hand)
    return Fetched(folder.name, files)


@contextmanager
def _hub_told(repo: str, name: str, by_hand: str) -> Iterator[None]:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        yield
    except GatedRepoError as error:
        fix = f"apply at {constants.ENDPOINT}/datasets/{repo}, then `hf auth login`, or set HF_TOKEN"
        raise UserError(f"the hub's {repo} is gated, and you are not let in", fix=fix) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise UserError(f"cannot fetch {name} from the hub's {repo} ({first_line(error)})", fix=by_hand) from error


def fetch(address: str, target: Path, *, sha256: str | None = None, most: int | None = None, by_hand: str) -> Path:
    """Download a file to `target`; what is there already is taken, and half of it is gone on with.

    The name `target` appears only when all is there and the checksum agrees; until then it is `<target>.part`.

    Args:
        address: http or https.
        target: its folder is made.
        sha256: the file's checksum, where it is known.
        most: bytes that it may have; what is larger is given up at once.
        by_hand: what to do where the address cannot be reached.

    Raises:
        UserError: it cannot be reached, or gives something else than expected.
    """
    if target.exists():
        return target
    if not address.startswith(("https://", "http://")):
        raise UserError(f"{address!r} is no http address", fix=by_hand)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    for attempt in range(1, TRIES + 1):
        try:
            _receive(address, part, most)
            break
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            if attempt == TRIES or (isinstance(error, urllib.error.HTTPError) and error.code < 500):  # noqa: PLR2004
                raise UserError(f"cannot fetch {address} ({first_line(error)})", fix=by_hand) from error
    _check_sum(part, sha256, address)
    part.replace(target)
    return target


def _receive(address: str, part: Path, most: int | None) -> None:
    """Append what is missing to `part`; begin anew where the server does not go on from there."""
    have = part.stat().st_size if part.exists() else 0
    # Never compressed on the way: the range counts bytes of the file.
    headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"} if have else {"Accept-Encoding": "identity"}
    request = urllib.request.Request(address, headers=headers)  # noqa: S310  # http and https alone get here
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
            goes_on = answer.status == http.client.PARTIAL_CONTENT
            with part.open("ab" if goes_on else "wb") as file:
                while chunk := answer.read(1 << 20):
                    file.write(chunk)
                    if most is not None and file.tell() > most:
                        raise UserError(f"{address} gives more than {most} bytes", fix="fetch it by hand")
                file.flush()
                os.fsync(file.fileno())
                _check_length(answer, file.tell(), have if goes_on else 0)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        # All of it is there, or the file has shrunk; the checksum tells, and without one it is fetched again.
        part.unlink()
        _receive(address, part, most)


def _check_length(answer: http.client.HTTPResponse, written: int, had: int) -> None:
    length = answer.headers.get("Content-Length")
    if length is not None and written - had < int(length):
        raise http.client.IncompleteRead(b"", int(length) - (written - had))


def _check_sum(part: Path, sha256: str | None, address: str) -> None:
    if sha256 is None:
        return
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        part.unlink()
        what = f"{address} gave a file with SHA-256 {found}, not {sha256}"
        raise UserError(what, fix="try again; if it stays so, the file at that address was replaced")
