"""Write a model at hand out whole, for programs other than this one.

What is covered: a full model, or an adapter merged into its base; safetensors in shards, the configuration, processor
and tokenizer in the released layout, and a model card.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from phi3v.schema import UserError
from phi3v.trainer.load import is_adapter, load_model, load_processor


class RemoteCode(NamedTuple):
    """The original code on the hub, for programs that load a model by running it."""

    # The code of Phi-3.5-vision runs both families; the last revision of a repository that is at rest since 2024.
    repository: str = "microsoft/Phi-3.5-vision-instruct"
    revision: str = "4a0d683eba9f1d0cbfb6151705d1ee73c25a80ca"

    def auto_map(self, **classes: str) -> dict[str, str]:
        """Return what `auto_map` holds: transformers splits repository and class at the two hyphens."""
        return {auto: f"{self.repository}--{name}" for auto, name in classes.items()}


def export(
    name: str, out_dir: Path, *, remote_code: RemoteCode | None = None, max_shard_size: str = "5GB"
) -> dict[str, int]:
    """Write a model, its processor and a card to a folder that does not exist yet; it appears when it is whole.

    Args:
        name: a folder, an adapter's folder (merged into its base), a hub id, or `tiny`.
        out_dir: the new folder.
        remote_code: name the original code in the files, too. `auto_map` has no place for the revision: the card
            tells it, and who loads the model passes it as `code_revision`.
        max_shard_size: of a file of weights, as transformers takes it.

    Returns:
        the files written, and their bytes.

    Raises:
        UserError: there is no such model, or `out_dir` holds something.
    """
    if out_dir.is_file() or (out_dir.is_dir() and any(out_dir.iterdir())):
        raise UserError("there is something already", where=out_dir, fix="name a new folder")
    model, processor = _whole(name), load_processor(name)
    part = out_dir.absolute().with_name(f".{out_dir.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # a killed export's
    part.mkdir(parents=True)
    model.save_pretrained(part, max_shard_size=max_shard_size)
    processor.save_pretrained(part)
    if remote_code:
        _name_code(part, remote_code)
    (part / "README.md").write_text(_card(out_dir.name, name, remote_code), encoding="utf-8")
    part.replace(out_dir)
    return {path.name: path.stat().st_size for path in sorted(out_dir.iterdir())}


def _whole(name: str) -> Any:
    """Return a model with its stored types; an adapter is merged into its base."""
    model: nn.Module = load_model(name, dtype="auto")
    return model.merge_and_unload() if is_adapter(name) else model  # type: ignore[operator]


def _name_code(folder: Path, code: RemoteCode) -> None:
    model = code.auto_map(
        AutoConfig="configuration_phi3_v.Phi3VConfig", AutoModelForCausalLM="modeling_phi3_v.Phi3VForCausalLM"
    )
    processor = code.auto_map(AutoProcessor="processing_phi3_v.Phi3VProcessor")
    images = code.auto_map(AutoImageProcessor="processing_phi3_v.Phi3VImageProcessor")
    _edit(folder / "config.json", auto_map=model)
    _edit(folder / "preprocessor_config.json", auto_map=images | processor, processor_class="Phi3VProcessor")
    _edit(folder / "tokenizer_config.json", auto_map=processor)
    # The released form, without transformers 5's nested image processor, which the original code does not take.
    released = {"auto_map": processor, "processor_class": "Phi3VProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(released, indent=2) + "\n", encoding="utf-8")


def _edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _card(title: str, name: str, code: RemoteCode | None) -> str:
    lines = [
        "---",
        "license: mit",
        "library_name: transformers",
        "pipeline_tag: image-text-to-text",
        "---",
        f"# {title}",
        "",
        f"Written by phi3v from `{Path(name).name}`. To load it without remote code: `import phi3v.trainer.model`,",
        "then transformers' `AutoModelForCausalLM` and `AutoProcessor`.",
    ]
    if code:
        lines += [
            "",
            f"Its files also name the original code, {code.repository}. Pin its revision when you load it that way:",
            "",
            "```",
            f'from_pretrained(..., trust_remote_code=True, code_revision="{code.revision}")',
            f"vllm serve ... --trust-remote-code --code-revision {code.revision}",
            "```",
        ]
    return "\n".join([*lines, ""])
