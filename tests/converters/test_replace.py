"""Overwriting, which must cost nothing of what was there until the new conversion is complete."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from phi3v.converters import Converted, Planned, Run, convert
from phi3v.converters.manifest import read_manifest, verify
from phi3v.schema import UserError

Write = Callable[..., Path]


class Setting:
    """A complete conversion with a failure, a file of the user's among its pictures, and other options for the next."""

    def __init__(self, faults: Any, source: Path, folder: Path) -> None:
        self._faults = faults
        self.source = source
        self.clean, self.out = folder / "clean", folder / "out"
        self.convert(self.clean, images=2, overwrite=False)
        self.convert(self.out, images=3, overwrite=False)
        (self.out / "images/train/mine.bin").write_bytes(b"mine")

    def convert(self, out: Path, *, images: int = 2, overwrite: bool = True, stop: int | None = None) -> list[Any]:
        run = Run(overwrite=overwrite, on_error="skip")
        events = convert("faults", self._faults.Options(src_dir=self.source, images=images), out_dir=out, run=run)
        seen = list(itertools.islice(events, stop))
        events.close()
        return seen

    def expected(self) -> dict[str, bytes]:
        """What a folder holds whose place the new conversion has taken."""
        return {**output(self.clean), "images/train/mine.bin": b"mine"}


def output(folder: Path) -> dict[str, bytes]:
    """Return what is left for users: the journal names the folder that pictures waited in."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(".convert/")}


@pytest.fixture
def setting(faults: Any, write_texts: Write, tmp_path: Path) -> Setting:
    texts = {"train_a": "ok 1", "train_b": "bad", "train_c": "ok 2", "val_d": "ok 3"}
    return Setting(faults, write_texts(**texts), tmp_path)


def test_a_new_conversion_takes_the_place_of_the_earlier_one(setting: Setting) -> None:
    setting.convert(setting.out)

    assert output(setting.out) == setting.expected()
    assert {path.name for path in setting.out.iterdir()} == {path.name for path in setting.clean.iterdir()}


def test_a_failure_costs_nothing_of_the_earlier_one(faults: Any, setting: Setting) -> None:
    options = faults.Options(src_dir=setting.source, images=2)

    with pytest.raises(UserError, match="says that it is bad"):
        list(convert("faults", options, out_dir=setting.out, run=Run(overwrite=True)))

    assert [difference.name for difference in verify(setting.out)] == ["images/train/mine.bin"]
    assert read_manifest(setting.out)["settings"]["options"]["images"] == 3


def test_a_stopped_one_goes_on_by_the_same_command(setting: Setting) -> None:
    setting.convert(setting.out, stop=3)
    assert [difference.name for difference in verify(setting.out)] == ["images/train/mine.bin"]

    first, *rest = setting.convert(setting.out)

    assert first == Planned(total=4, kept=2)
    assert [event.source for event in rest] == ["train_c.txt", "val_d.txt"]
    assert output(setting.out) == setting.expected()


def test_a_stopped_one_with_other_options_is_not_gone_on_with(setting: Setting) -> None:
    setting.convert(setting.out, images=1, stop=3)

    first, *_ = setting.convert(setting.out)

    assert first == Planned(total=4, kept=0)
    assert output(setting.out) == setting.expected()


def test_what_failed_can_be_retried_after_the_replacement(
    faults: Any, setting: Setting, write_texts: Write, tmp_path: Path
) -> None:
    setting.convert(setting.out)
    write_texts(train_b="ok 4")
    setting.convert(tmp_path / "mended")
    options = faults.Options(src_dir=setting.source, images=2)

    _, event = convert("faults", options, out_dir=setting.out, run=Run(retry_failed=True))

    assert isinstance(event, Converted)
    assert output(setting.out) == {**output(tmp_path / "mended"), "images/train/mine.bin": b"mine"}


def test_another_data_set_is_replaced_with_all_its_files(setting: Setting) -> None:
    """As if it came from another converter, of which this one knows no file names."""
    manifest = setting.out / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"faults_", b"others_").replace(b'"faults"', b'"others"'))
    for path in setting.out.glob("faults_*"):
        path.rename(path.with_name(path.name.replace("faults", "others")))

    setting.convert(setting.out)

    assert output(setting.out) == setting.expected()


def test_nothing_outside_is_removed_whatever_the_earlier_one_names(setting: Setting, tmp_path: Path) -> None:
    """The earlier conversion may come from elsewhere."""
    (tmp_path / "outside").mkdir()
    (setting.out / "linked").symlink_to(tmp_path / "outside")
    names = {"../outside/a": "a", str(tmp_path / "outside/b"): "b", "linked/c": "c"}
    with (setting.out / "images.sha256").open("a") as file:
        for name, victim in names.items():
            (tmp_path / "outside" / victim).touch()
            file.write(f"{'0' * 64}  {name}\n")

    setting.convert(setting.out)

    assert sorted(path.name for path in (tmp_path / "outside").iterdir()) == ["a", "b", "c"]


STEPS = [(Path, "unlink"), (Path, "replace"), (Path, "rename"), (Path, "mkdir"), (shutil, "rmtree")]


def test_a_kill_at_any_step_is_made_good_by_the_same_command(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call that changes the folder is a step; a kill comes before the n-th of them, for every n."""
    expected = setting.expected()
    for kill in itertools.count(1):
        out, calls = tmp_path / f"out{kill}", itertools.count(1)
        shutil.copytree(setting.out, out)

        def step(*arguments: Any, real: Any, calls: Any = calls, kill: int = kill, **options: Any) -> Any:
            if next(calls) == kill:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        with monkeypatch.context() as patch:
            for owner, name in STEPS:
                real = getattr(owner, name)
                patch.setattr(owner, name, lambda *a, real=real, step=step, **o: step(*a, real=real, **o))
            with suppress(KeyboardInterrupt):
                setting.convert(out)
                break
        setting.convert(out)
        assert output(out) == expected, kill

    assert kill > 30


def test_a_half_replaced_conversion_is_completed_by_a_run_that_overwrites_nothing(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            setting.convert(setting.out)

    assert setting.convert(setting.out, overwrite=False) == [Planned(total=0, kept=0)]
    assert output(setting.out) == setting.expected()
