"""The layers: schema <- converters, schema <- trainer, all <- cli; and no torch where none may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "schema": {"schema"},
    "converters": {"schema", "converters"},
    "trainer": {"schema", "trainer", "cli"},  # cli: `python -m phi3v.trainer` is the command
}


def ours(path: Path) -> Iterator[str]:
    """Yield which of our packages a module imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = [node.module or ""]
            if node.module == "phi3v":
                names = [f"phi3v.{alias.name}" for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("phi3v."))


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_a_layer_imports_only_what_lies_below(layer: str) -> None:
    for path in (ROOT / layer).rglob("*.py"):
        allowed = MAY_IMPORT[layer] - (set() if path.name == "__main__.py" else {"cli"})
        assert set(ours(path)) <= allowed, path


def loaded_by(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}


HEAVY = {"torch", "transformers", "numpy", "av", "cv2", "huggingface_hub", "pandas", "pyarrow", "datasets"}


@pytest.mark.parametrize(
    "code",
    [
        "import phi3v.cli",
        "import phi3v.schema",
        "import phi3v.converters",
        "import phi3v.converters.ucf101",
        "import phi3v.trainer.config",
        "from phi3v.cli import data\ndata.main(['convert', 'ucf101', '--help'], standalone_mode=False)",
        "from phi3v.cli import train_command\ntrain_command().main(['--help'], standalone_mode=False)",
    ],
)
def test_what_must_be_light_loads_nothing_heavy(code: str) -> None:
    assert not loaded_by(code) & HEAVY


def test_help_loads_nothing_that_it_does_not_show() -> None:
    loaded = loaded_by("from phi3v.cli import data\ndata.main(['--help'], standalone_mode=False)")

    assert not loaded & {"jsonschema", "rich", "PIL"}


def test_converting_a_video_loads_no_torch(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from phi3v.converters import convert, ucf101
options = ucf101.Options(src_dir=Path({str(ROOT / "fixtures" / "ucf101")!r}), num_frames=1)
list(convert("ucf101", options, out_dir=Path({str(tmp_path)!r})))
"""
    assert not loaded_by(code) & {"torch", "transformers"}
