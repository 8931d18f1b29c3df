"""Files from the Hugging Face hub, with an error that says how to get them by hand."""

from __future__ import annotations

from pathlib import Path

from phi3v.schema import UserError
from phi3v.schema.errors import first_line


def hub_file(repo: str, name: str, *, by_hand: str) -> Path:
    """Return the local path of a file in a data set repository, downloaded unless it is cached.

    HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and the user's token count, as huggingface_hub has it.

    Args:
        repo: the data set, `owner/name`.
        name: the file in it.
        by_hand: what to do where the hub cannot be reached.

    Raises:
        UserError: the hub cannot be reached, or does not have the file.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(hf_hub_download(repo, name, repo_type="dataset"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise UserError(f"cannot fetch {name} from the hub's {repo} ({first_line(error)})", fix=by_hand) from error
