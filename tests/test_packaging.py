"""What is shipped: the wheel's files are git's files, and wheel, sdist and editable install all work."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("schema", "converters", "trainer")


def tracked() -> set[str]:
    """Return git's files that belong into the package: all of the three folders, and cli.py."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    return {name for name in listed if name.startswith(PACKAGES) or name == "cli.py"}


def test_every_folder_with_python_is_a_listed_package() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {str(Path(name).parent).replace("/", ".") for name in tracked() if name.endswith(".py") and "/" in name}

    assert listed == {"phi3v"} | {f"phi3v.{name}" for name in found}


def test_only_the_commands_lie_at_the_root() -> None:
    assert [path.name for path in ROOT.glob("*.py")] == ["cli.py"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    out = tmp_path_factory.mktemp("dist")
    # From the sdist, as an installer without a wheel does.
    subprocess.run([sys.executable, "-m", "build", "--outdir", out, ROOT], check=True, capture_output=True)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


@pytest.mark.install
@pytest.mark.slow
def test_the_wheel_holds_what_git_holds(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        entries = wheel.read(next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))).decode()

    assert names == {f"phi3v/{name}" for name in tracked()}
    assert "phi3v-data = phi3v.cli:data_main" in entries
    assert built[0].stat().st_size < 400_000


@pytest.mark.install
@pytest.mark.slow
def test_the_sdist_holds_what_the_wheel_needs(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as sdist:
        names = {member.name.partition("/")[2] for member in sdist if member.isfile()}

    made = {name for name in names if name.startswith("phi3v.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert names - made == tracked() | {"LICENSE", "MANIFEST.in", "README.md", "pyproject.toml"}


@pytest.mark.install
@pytest.mark.slow
def test_the_wheel_installs_without_extras_and_checks_a_file(built: tuple[Path, Path], tmp_path: Path) -> None:
    """In an environment of its own: what a commit hook gets."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", built[0]], check=True, capture_output=True)

    done = subprocess.run(
        [tmp_path / "venv/bin/phi3v-data", "validate", ROOT / "fixtures/valid/two_records.jsonl"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    listed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout

    assert (done.returncode, done.stderr) == (0, "2 records in 1 file: no findings\n")
    assert "torch" not in listed
    assert "phi3v" in listed
