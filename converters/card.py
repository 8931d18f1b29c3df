"""The data card: a README whose front matter lets `datasets.load_dataset(folder)` find the splits."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import cleandoc
from typing import Any

# Every field of the contract, since no split need have them all, and `datasets` would take the first one's for given.
# `json` asks for datasets 4.7.
FEATURES = """\
dataset_info:
  features:
  - {name: id, dtype: string}
  - {name: source, dtype: string}
  - {name: system, dtype: string}
  - name: conversations
    list:
    - {name: images, list: string}
    - {name: user, dtype: string}
    - {name: assistant, dtype: string}
    - {name: answers, list: string}
  - {name: metadata, dtype: json}"""
SPLIT_NAMES = {"train": "train", "val": "validation", "test": "test"}  # as the hub spells them


def card_text(source: str, about: str, content: Mapping[str, Any]) -> str:
    """Return the card of a converted folder.

    Args:
        source: the data set's name.
        about: the converter's docstring.
        content: what the manifest says, of which `records` and `rejected` are shown.
    """
    records, count = content["records"], content["rejected"]["count"]
    configs = [
        line for split in records for line in (f"  - split: {SPLIT_NAMES[split]}", f"    path: {source}_{split}.jsonl")
    ]
    front = [
        "---",
        f"pretty_name: {source}",
        "configs:",
        "- config_name: default",
        "  data_files:",
        *configs,
        FEATURES,
        "---",
    ]
    table = ["| split | records |", "|---|---|", *(f"| {split} | {number} |" for split, number in records.items())]
    made = (
        f"Conversations for Phi-3-vision and Phi-3.5-vision, one a line, made by `phi3v-data convert {source}`. "
        "Image paths are below `images/`."
    )
    rejected = f"\n\nRejected: {count}; see `rejected.jsonl`." if count else ""
    checks = "`phi3v-data verify` checks the files, `phi3v-data validate` the records."
    body = [f"# {source}", made, "\n".join(table) + rejected, f"```\n{cleandoc(about)}\n```", checks]
    return "\n".join(front) + "\n\n" + "\n\n".join(body) + "\n"
