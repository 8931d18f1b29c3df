"""The commands as a user meets them: what they print, and their exit codes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from phi3v.schema import Conversation, Turn

Run = Callable[..., subprocess.CompletedProcess[str]]
DrawClip = Callable[..., Path]


def one_clear_error(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert lines[-2].startswith("error: ")
    assert lines[-1].startswith("  fix: ")
    for part in parts:
        assert part in done.stderr


@pytest.fixture
def clips(draw_clip: DrawClip, tmp_path: Path) -> Path:
    for name in ("train/Archery/a.avi", "val/Archery/b.avi"):
        draw_clip(tmp_path / "src" / name)
    return tmp_path / "src"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["phi3v-data"], ["convert", "validate", "schema", "Examples:"]),
        (["phi3v-data", "convert"], ["ucf101", "UCF-101 action clips"]),
        (["phi3v-data", "convert", "ucf101"], ["--src_dir", "--num_frames", "[default: 8]", "Example:", "Licence: "]),
        (["phi3v-data", "validate"], ["--format", "FILE|DIR", "Examples:"]),
        (["phi3v-train"], ["--data_dir", "[required]", "--use_lora", "tiny", "torchrun", "--no_tqdm"]),
        (["phi3v-model"], ["predict", "evaluate", "Examples:"]),
        (["phi3v-model", "predict"], ["--image", "QUESTION"]),
    ],
)
def test_every_command_has_help(run: Run, command: list[str], words: list[str]) -> None:
    done = run(*command, "--help")

    assert done.returncode == 0
    for word in words:
        assert word in done.stdout


def test_no_help_shows_clicks_own_marks(run: Run) -> None:
    for command in (["phi3v-data"], ["phi3v-data", "validate"], ["phi3v-model"], ["phi3v-model", "selfcheck"]):
        assert "\\b" not in run(*command, "--help").stdout


def test_what_is_required_is_asked_for(run: Run) -> None:
    done = run("phi3v-train")

    assert done.returncode == 2
    assert "Missing option '--data_dir'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_path_from_clips_to_checked_records(run: Run, clips: Path, tmp_path: Path) -> None:
    converted = run("phi3v-data", "convert", "ucf101", "--src_dir", clips, "--out_dir", tmp_path / "out")
    validated = run("phi3v-data", "validate", "--ignore", "leak", tmp_path / "out")  # the two clips are the same

    assert converted.returncode == 0, converted.stderr
    assert converted.stdout.splitlines() == [
        f"{tmp_path / 'out/ucf101_train.jsonl'}: 1 record (Archery 1)",
        f"{tmp_path / 'out/ucf101_val.jsonl'}: 1 record (Archery 1)",
        f"check it with: phi3v-data validate {tmp_path / 'out'}",
    ]
    assert (validated.returncode, validated.stdout, validated.stderr) == (0, "", "2 records in 2 files: no findings\n")


def test_a_folder_is_verified_file_by_file(run: Run, clips: Path, tmp_path: Path) -> None:
    run("phi3v-data", "convert", "ucf101", "--src_dir", clips, "--out_dir", tmp_path / "out", "--num_frames", 2)
    good = run("phi3v-data", "verify", tmp_path / "out")
    pictures = sorted((tmp_path / "out/images").rglob("*.jpg"))
    pictures[0].unlink()
    pictures[1].write_bytes(b"changed")
    (tmp_path / "out/new").touch()

    bad = run("phi3v-data", "verify", tmp_path / "out")

    assert (good.returncode, good.stdout, good.stderr) == (0, "", "all files are as written\n")
    assert bad.returncode == 1
    assert bad.stdout.splitlines() == [
        f"missing: {pictures[0]}",
        f"changed: {pictures[1]}",
        f"extra: {tmp_path / 'out/new'}",
    ]
    assert bad.stderr == f"3 files are not as {tmp_path / 'out/manifest.json'} has them\n"
    one_clear_error(run("phi3v-data", "verify", tmp_path), "no manifest.json here", "--out_dir")


def test_what_failed_is_counted_told_and_retried(run: Run, clips: Path, tmp_path: Path) -> None:
    bad = clips / "train/Archery/bad.avi"
    bad.write_bytes(b"no video")
    command = ["phi3v-data", "convert", "ucf101", "--src_dir", clips, "--out_dir", tmp_path / "out"]

    skipped = run(*command, "--on_error", "skip")
    again = run(*command, "--on_error", "skip")
    shutil.copy(next(path for path in clips.rglob("*.avi") if path != bad), bad)
    retried = run(*command, "--retry_failed")

    ledger = tmp_path / "out/rejected.jsonl"
    assert skipped.returncode == 0
    assert f"rejected: 1 (no-video 1); why: {ledger}; once mended: --retry_failed" in skipped.stdout
    assert again.stdout == skipped.stdout  # and nothing was done again
    assert retried.returncode == 0, retried.stderr
    assert "rejected" not in retried.stdout
    assert "ucf101_train.jsonl: 2 records (Archery 2)" in retried.stdout
    assert not ledger.exists()
    assert not (tmp_path / "out/.convert").exists()


def test_other_options_than_before_are_one_clear_error(run: Run, clips: Path, tmp_path: Path) -> None:
    command = ["phi3v-data", "convert", "ucf101", "--src_dir", clips, "--out_dir", tmp_path / "out"]
    run(*command, "--num_frames", 2)

    refused = run(*command, "--num_frames", 3)
    anew = run(*command, "--num_frames", 3, "--overwrite")

    one_clear_error(refused, "other options (--num_frames: 2 before, 3 now)", "--overwrite")
    assert anew.returncode == 0, anew.stderr
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == 6


def test_progress_shows_pace_time_left_and_failures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plain lines, since nobody's terminal is here; the clock is ours."""
    from phi3v import cli

    now = [100.0]
    monkeypatch.setattr(cli.time, "monotonic", lambda: now[0])

    with cli.Progress("converting x") as progress:
        progress.show(40, 100)  # 39 were done before
        now[0] = 110.0
        progress.show(60, 100, failed=3)

    assert capsys.readouterr().err == "converting x: 60 of 100, 2.0/s, 0:20 left, 3 failed\n"


def test_progress_on_a_terminal_is_a_bar(clips: Path, tmp_path: Path) -> None:
    phi3v = Path(sys.executable).parent / "phi3v-data"
    command = f"'{phi3v}' convert ucf101 --src_dir '{clips}' --out_dir '{tmp_path / 'out'}' --jobs 1"

    done = subprocess.run(["script", "-qec", command, "/dev/null"], capture_output=True, text=True, check=False)

    assert done.returncode == 0
    assert "converting ucf101" in done.stdout
    assert "━" in done.stdout
    assert "/s" in done.stdout
    assert "ucf101_train.jsonl: 1 record (" in done.stdout.replace("\r\n", "")


def test_hyphens_are_taken_for_underscores(run: Run, clips: Path, tmp_path: Path) -> None:
    done = run("phi3v-data", "convert", "ucf101", "--src-dir", clips, "--out-dir", tmp_path / "out", "--num-frames", 2)

    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == 4


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--src_dir", "{tmp}/nowhere"], ["{tmp}/nowhere: no such folder", "--src_dir"]),
        (["--src_dir", "{tmp}/empty"], ["empty: no class folders"]),
        (["--src_dir", "{tmp}/src", "--split_lists", "{tmp}"], ["trainlist01.txt: no such list", "ucfTrainTestlist"]),
        (["--src_dir", "{tmp}/src", "--out_dir", "{tmp}/file/out"], ["cannot write here", "--out_dir"]),
        (["--src_dir", "{tmp}/src", "--num_frames", "0"], ["--num_frames 0 takes no frame"]),
        (["--src_dir", "{tmp}/broken"], ["broken/train/Archery/x.avi: cannot decode this video"]),
    ],
)
@pytest.mark.usefixtures("clips")
def test_bad_input_to_convert_is_one_clear_error(
    run: Run, tmp_path: Path, arguments: list[str], parts: list[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken/train/Archery").mkdir(parents=True)
    (tmp_path / "broken/train/Archery/x.avi").write_bytes(b"no video")
    filled = [argument.format(tmp=tmp_path) for argument in arguments]

    done = run("phi3v-data", "convert", "ucf101", "--out_dir", tmp_path / "out", *filled)

    one_clear_error(done, *(part.format(tmp=tmp_path) for part in parts))
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_misspelt_converter_gets_a_hint(run: Run, tmp_path: Path) -> None:
    one_clear_error(run("phi3v-data", "convert", "ucf-101", "--out_dir", tmp_path), "did you mean ucf101?")


def test_a_missing_extra_is_told_before_any_work(tmp_path: Path) -> None:
    """As a hook's environment has it: the base dependencies and nothing of the extras."""
    code = """
import sys
from importlib.machinery import PathFinder
class Hidden(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in {"av", "torch", "peft", "huggingface_hub"} else super().find_spec(name, path, target)
sys.meta_path[:] = [Hidden if finder is PathFinder else finder for finder in sys.meta_path]
from phi3v import cli
sys.argv = sys.argv[1:]
getattr(cli, sys.argv[0])()
"""
    for arguments, part in (
        (["data_main", "convert", "ucf101", "--out_dir", str(tmp_path / "out")], "av is not installed"),
        (["train_main", "--data_dir", str(tmp_path), "--output_dir", str(tmp_path / "out")], "torch is not installed"),
        (["train_main", "--data_dir", str(tmp_path), "--use_lora"], "torch, peft is not installed"),
        (["model_main", "predict", "--model", "tiny", "Q"], "torch is not installed"),
    ):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        one_clear_error(done, part, "pip install 'phi3v[")
        assert not (tmp_path / "out").exists()


def test_findings_are_lines_with_a_remedy_and_exit_code_1(run: Run, fixtures: Path) -> None:
    path = fixtures / "invalid" / "duplicate-id.same_file.jsonl"

    done = run("phi3v-data", "validate", path)

    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"{path}:3:8: duplicate-id: /id: id 'a-1' is also on line 1",
        '    {"id": "a-1", "source": "example", "conversations": [{"user": "What is this?", "assistant": "A boat....',
        "           ^^^^^",
        "    fix: give each record its own id",
    ]
    assert done.stderr == "3 records in 1 file: 1 duplicate-id\n"


def test_findings_as_json(run: Run, fixtures: Path) -> None:
    names = ["schema.no_id.jsonl", "json.cut_line.jsonl"]

    done = run("phi3v-data", "validate", "--format", "json", *[fixtures / "invalid" / name for name in names])

    assert done.returncode == 1
    assert [finding["code"] for finding in json.loads(done.stdout)["findings"]] == ["schema", "json"]


def test_ids_are_unique_within_a_folder_but_not_between_files(run: Run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        record = Conversation(id="same", source="s", turns=(Turn(user="Q"),))
        (tmp_path / f"{name}.jsonl").write_text(record.to_line())

    together = run("phi3v-data", "validate", tmp_path)
    apart = run("phi3v-data", "validate", tmp_path / "a.jsonl", tmp_path / "b.jsonl")

    assert together.stdout.startswith(
        f"{tmp_path}/b.jsonl:1:8: duplicate-id: /id: id 'same' is also on line 1 of {tmp_path}/a.jsonl\n"
    )
    assert apart.returncode == 0


def test_a_path_that_is_not_there_is_wrong_usage(run: Run, tmp_path: Path) -> None:
    done = run("phi3v-data", "validate", tmp_path / "nowhere.jsonl")

    assert done.returncode == 2
    assert "does not exist" in done.stderr


def test_a_folder_without_data(run: Run, tmp_path: Path) -> None:
    one_clear_error(run("phi3v-data", "validate", tmp_path), "no .jsonl file in this folder")


def test_the_schema_is_printed(run: Run, root: Path) -> None:
    assert run("phi3v-data", "schema").stdout == (root / "schema" / "conversation.schema.json").read_text()


def test_an_interrupted_conversion_leaves_no_jsonl(fixtures: Path, tmp_path: Path) -> None:
    source = tmp_path / "src" / "train" / "RedSpinning"
    source.mkdir(parents=True)
    clip = (fixtures / "ucf101/train/RedSpinning/v_RedSpinning_g01_c01.avi").read_bytes()
    for number in range(3000):
        (source / f"{number}.avi").write_bytes(clip)
    command = [str(Path(sys.executable).parent / "phi3v-data"), "convert", "ucf101"]
    command += ["--src_dir", str(tmp_path / "src"), "--out_dir", str(tmp_path / "out")]

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "out").rglob("*.jpg")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        stderr = process.communicate()[1]

    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "interrupted"
    assert "Traceback" not in stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".convert", "images"]


def test_output_that_nobody_reads_to_the_end_is_no_traceback(fixtures: Path) -> None:
    command = f"'{Path(sys.executable).parent}/phi3v-data' validate '{fixtures}'/invalid/*.jsonl | head -1"

    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)

    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--data_dir", "{tmp}/nowhere"], ["no such folder"]),
        (["--data_dir", "{tmp}"], ["no .jsonl file"]),
        (["--data_dir", "{tmp}", "--num_crops", "20"], ["--num_crops 20 is out of range"]),
        (
            ["--data_dir", "{tmp}", "--batch_size", "3", "--batch_size_per_gpu", "2"],
            ["--batch_size 3 is not a multiple"],
        ),
        (["--data_dir", "{tmp}", "--use_flash_attention"], ["FlashAttention-2 needs a GPU"]),
    ],
)
def test_bad_input_to_training_is_one_clear_error(
    run: Run, tmp_path: Path, arguments: list[str], parts: list[str]
) -> None:
    filled = [argument.format(tmp=tmp_path) for argument in arguments]

    done = run("phi3v-train", "--output_dir", tmp_path / "out", "--model_name_or_path", "tiny", *filled)

    one_clear_error(done, *parts)


def test_bad_data_stops_training_with_its_place(run: Run, tmp_path: Path) -> None:
    image = Turn(user="Q", assistant="A", images=("x.jpg",))
    (tmp_path / "s_train.jsonl").write_text(Conversation(id="a", source="s", turns=(image,)).to_line())

    done = run("phi3v-train", "--data_dir", tmp_path, "--model_name_or_path", "tiny", "--output_dir", tmp_path / "out")

    one_clear_error(
        done, f'{tmp_path}/s_train.jsonl:1:58: image-missing: /conversations/0/images/0: "x.jpg" does not exist'
    )


@pytest.fixture
def one_picture(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 64), "red").save(tmp_path / "images" / "a.png")
    turn = Turn(user="What is this?", assistant="red", images=("a.png",))
    (tmp_path / "s_test.jsonl").write_text(Conversation(id="a", source="s", turns=(turn,)).to_line())
    return tmp_path


def test_a_model_answers_a_question(run: Run, one_picture: Path) -> None:
    image = one_picture / "images" / "a.png"

    done = run("phi3v-model", "predict", "--model", "tiny", "--max_new_tokens", 3, "--image", image, "What is this?")

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip("\n")


def test_a_question_with_wrong_tags_is_refused(run: Run, one_picture: Path) -> None:
    image = one_picture / "images" / "a.png"

    done = run("phi3v-model", "predict", "--model", "tiny", "--image", image, "<|image_2|> What?")

    one_clear_error(done, "tags the images [2] and has 1")


def test_a_model_is_scored_on_a_file(run: Run, one_picture: Path) -> None:
    out = one_picture / "scores.json"

    done = run("phi3v-model", "evaluate", "--model", "tiny", "--data", one_picture / "s_test.jsonl", "--output", out)

    assert done.returncode == 0, done.stderr
    assert done.stdout == "accuracy: 0.0000 on 1 samples (95 %: 0.0000 to 0.0000)\n"
    assert json.loads(out.read_text())["answers_unique"] == [{"id": "a", "answer": "red", "answers": ["red"]}]


def test_an_unlabelled_file_cannot_be_scored(run: Run, tmp_path: Path) -> None:
    record: Any = Conversation(id="a", source="s", turns=(Turn(user="Q"),))
    (tmp_path / "s_test.jsonl").write_text(record.to_line())

    done = run("phi3v-model", "evaluate", "--model", "tiny", "--data", tmp_path / "s_test.jsonl")

    one_clear_error(done, "no record has an answer to score against")


def test_a_code_is_explained(run: Run) -> None:
    assert "Tag N is image N" in run("phi3v-data", "explain", "image-tag").stdout
    one_clear_error(run("phi3v-data", "explain", "image-tga"), "no code 'image-tga'", "'image-tag'")
    assert run("phi3v-data", "explain").returncode == 2


@pytest.mark.parametrize(("form", "start"), [("sarif", '{"$schema"'), ("junit", "<?xml"), ("github", "::error file=")])
def test_a_report_goes_where_it_is_wanted(run: Run, fixtures: Path, tmp_path: Path, form: str, start: str) -> None:
    path = fixtures / "invalid" / "schema.no_id.jsonl"

    to_file = run("phi3v-data", "validate", "--format", form, "--output", tmp_path / "report", path)
    to_screen = run("phi3v-data", "validate", "--format", form, path)

    assert (to_file.returncode, to_file.stdout) == (1, "")
    assert to_file.stderr == "1 record in 1 file: 1 schema\n"
    assert to_screen.stdout == (tmp_path / "report").read_text()
    assert to_screen.stdout.startswith(start)
    one_clear_error(run("phi3v-data", "validate", "--output", tmp_path / "no/where", path), "cannot write here")


def test_bad_rows_are_set_aside(run: Run, fixtures: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes((fixtures / "invalid" / "json.cut_line.jsonl").read_bytes())

    done = run("phi3v-data", "validate", "--quarantine", "--statistics", path)
    again = run("phi3v-data", "validate", path)

    assert done.returncode == 1
    assert f"{path}: 1 record kept, 1 moved to {tmp_path / 'a.rejected.jsonl'}" in done.stderr
    assert "      1 json" in done.stderr
    assert (again.returncode, again.stderr) == (0, "1 record in 1 file: no findings\n")


def test_options_that_make_no_sense_are_told(run: Run, tmp_path: Path) -> None:
    one_clear_error(run("phi3v-data", "validate", "--jobs", 0, tmp_path), "--jobs is 0")


@pytest.mark.parametrize(("program", "silent"), [("phi3v-data", "True"), ("pytest", "False")])
def test_an_interrupt_during_the_imports_is_no_traceback_of_ours_and_nobody_elses_business(
    program: str, silent: str
) -> None:
    code = f"""
import signal, sys
sys.argv = ["/bin/{program}"]
import phi3v.cli
print(signal.getsignal(signal.SIGINT) is signal.SIG_DFL)
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == silent
