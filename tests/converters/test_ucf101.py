from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from phi3v.converters import Converted, convert, ucf101
from phi3v.converters.sampling import Sampling
from phi3v.converters.ucf101_lists import CLASSES, read_lists
from phi3v.schema import Conversation, UserError, check

DrawClip = Callable[..., Path]


@pytest.fixture
def touch_clips(tmp_path: Path) -> Callable[..., Path]:
    """Lay out empty files: a plan reads no media."""

    def touch(*names: str) -> Path:
        for name in names:
            (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "src" / name).touch()
        return tmp_path / "src"

    return touch


@pytest.fixture
def write_lists(tmp_path: Path) -> Callable[..., Path]:
    """Write official lists, with the CRLF line ends of some copies."""

    def write(train: Iterable[str], test: Iterable[str], number: int = 1) -> Path:
        folder = tmp_path / "lists"
        folder.mkdir(exist_ok=True)
        (folder / f"trainlist0{number}.txt").write_bytes("".join(f"{name} 1\r\n" for name in train).encode())
        (folder / f"testlist0{number}.txt").write_bytes("".join(f"{name}\r\n" for name in test).encode())
        return folder

    return write


def splits(**options: object) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for clip in ucf101.plan(ucf101.Options(**options)):  # type: ignore[arg-type]
        found.setdefault(clip.split, []).append(f"{clip.label}/{clip.path.name}")
    return found


def converted(options: ucf101.Options, out_dir: Path) -> list[Conversation]:
    return [event.record for event in convert("ucf101", options, out_dir=out_dir) if isinstance(event, Converted)]


def group_names(label: str, groups: Iterable[int]) -> list[str]:
    return [f"{label}/v_{label}_g{group:02d}_c01.avi" for group in groups]


def test_split_folders_are_taken_as_they_are(
    draw_clip: DrawClip, which_frame: Callable[[bytes], int], tmp_path: Path
) -> None:
    for name in ("val/Archery/v_Archery_g01_c01.avi", "train/Basketball/x.avi", "train/Archery/v_Archery_g09_c02.avi"):
        draw_clip(tmp_path / "src" / name)

    records = converted(ucf101.Options(src_dir=tmp_path / "src"), tmp_path / "out")

    assert [record.id for record in records] == ["train-0000000000", "train-0000000001", "val-0000000002"]
    assert [record.turns[0].assistant for record in records] == ["Archery", "Basketball", "Archery"]
    stem = "val/Archery/v_Archery_g01_c01"
    assert (tmp_path / "out/ucf101_val.jsonl").read_text() == (
        '{"id": "val-0000000002", "source": "ucf101", "conversations": [{"images": ['
        + ", ".join(f'"{stem}.{number}.jpg"' for number in range(8))
        + '], "user": "Classify the video into one of the following classes: Archery, Basketball.", '
        '"assistant": "Archery"}]}\n'
    )
    jpegs = [(tmp_path / "out/images" / f"{stem}.{number}.jpg").read_bytes() for number in range(8)]
    assert [which_frame(jpeg) for jpeg in jpegs] == [0, 1, 3, 4, 6, 7, 9, 10]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "images",
        "images.sha256",
        "manifest.json",
        "sources.sha256",
        "ucf101_train.jsonl",
        "ucf101_val.jsonl",
    ]
    for path in (tmp_path / "out").glob("*.jsonl"):
        assert list(check(path)) == []


def test_two_runs_write_the_same_bytes(draw_clip: DrawClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for group in range(6, 11):
        draw_clip(tmp_path / "src" / f"v_Archery_g{group:02d}_c01.avi", frames=3)
    options = ucf101.Options(src_dir=tmp_path / "src")
    list(convert("ucf101", options, out_dir=tmp_path / "a"))

    listing = Path.iterdir

    def shuffled(self: Path) -> list[Path]:
        found = sorted(listing(self))
        random.Random(7).shuffle(found)
        return found

    monkeypatch.setattr(Path, "iterdir", shuffled)
    list(convert("ucf101", options, out_dir=tmp_path / "b"))
    monkeypatch.undo()

    contents = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "a", tmp_path / "b")
    ]
    assert contents[0] == contents[1]
    assert len(contents[0]) == 5 * 3 + 7  # images; three JSONL files, card, manifest and two lists of checksums


def test_without_lists_groups_1_to_7_are_the_test_set(touch_clips: Callable[..., Path]) -> None:
    source = touch_clips(*[f"UCF-101/{name}" for name in group_names("Archery", range(1, 26))])

    found = splits(src_dir=source / "UCF-101")

    assert found == {
        "train": group_names("Archery", range(8, 23)),
        "val": group_names("Archery", range(23, 26)),
        "test": group_names("Archery", range(1, 8)),
    }


def test_the_folder_above_ucf_101_is_taken_too(touch_clips: Callable[..., Path]) -> None:
    source = touch_clips("UCF-101/Archery/v_Archery_g08_c01.avi", "ucfTrainTestlist/classInd.txt", "other/x.jpg")

    assert splits(src_dir=source) == {"train": ["Archery/v_Archery_g08_c01.avi"]}


def test_a_class_with_one_training_group_has_no_validation(touch_clips: Callable[..., Path]) -> None:
    source = touch_clips(*group_names("Archery", [8]), *group_names("Biking", [8, 9]))

    assert splits(src_dir=source) == {
        "train": [*group_names("Archery", [8]), *group_names("Biking", [8])],
        "val": group_names("Biking", [9]),
    }


@pytest.mark.parametrize(("fraction", "validation"), [(0.0, []), (0.5, range(21, 26)), (0.2, [24, 25])])
def test_the_share_of_validation_groups(
    touch_clips: Callable[..., Path], fraction: float, validation: list[int]
) -> None:
    source = touch_clips(*group_names("Archery", range(16, 26)))

    assert splits(src_dir=source, val_fraction=fraction).get("val", []) == group_names("Archery", validation)


def test_official_lists_say_what_is_test(touch_clips: Callable[..., Path], write_lists: Callable[..., Path]) -> None:
    source = touch_clips(*group_names("Archery", [1, 8, 9]))
    lists = write_lists(train=group_names("Archery", [1, 9]), test=group_names("Archery", [8, 30]))

    assert splits(src_dir=source, split_lists=lists) == {
        "train": group_names("Archery", [1]),
        "val": group_names("Archery", [9]),
        "test": group_names("Archery", [8]),
    }


def test_another_official_split(touch_clips: Callable[..., Path], write_lists: Callable[..., Path]) -> None:
    source = touch_clips(*group_names("Archery", [1, 8]))
    lists = write_lists(train=group_names("Archery", [1]), test=group_names("Archery", [8]), number=3)

    assert splits(src_dir=source, split_lists=lists, split="3")["test"] == group_names("Archery", [8])
    with pytest.raises(UserError, match="trainlist01.txt: no such list"):
        splits(src_dir=source, split_lists=lists)


def test_the_class_is_the_folders_not_the_files(
    touch_clips: Callable[..., Path], write_lists: Callable[..., Path]
) -> None:
    source = touch_clips("HandstandPushups/v_HandStandPushups_g08_c01.avi")
    listed = ["HandstandPushups/v_HandStandPushups_g08_c01.avi"]

    for lists in (None, write_lists(train=listed, test=[])):
        assert splits(src_dir=source, split_lists=lists) == {"train": listed}


def test_a_flat_folder_takes_classes_from_the_known_names(touch_clips: Callable[..., Path]) -> None:
    source = touch_clips("v_HandStandPushups_g08_c01.avi", "v_archery_g01_c01.avi", "v_Juggling_g01_c01.avi")

    assert splits(src_dir=source) == {
        "train": ["HandstandPushups/v_HandStandPushups_g08_c01.avi"],
        "test": ["Archery/v_archery_g01_c01.avi", "Juggling/v_Juggling_g01_c01.avi"],
    }


def test_a_flat_folder_takes_classes_from_the_lists(
    touch_clips: Callable[..., Path], write_lists: Callable[..., Path]
) -> None:
    source = touch_clips("v_HandStandPushups_g08_c01.avi")
    lists = write_lists(train=[], test=["HANDSTAND/v_HandStandPushups_g08_c01.avi"])

    assert splits(src_dir=source, split_lists=lists) == {"test": ["HANDSTAND/v_HandStandPushups_g08_c01.avi"]}


def test_leftovers_of_macos_archives_are_no_clips(touch_clips: Callable[..., Path]) -> None:
    source = touch_clips(
        "train/Archery/v_Archery_g08_c01.avi", "train/Archery/._v_Archery_g08_c01.avi", "train/.x/a.avi"
    )

    assert splits(src_dir=source) == {"train": ["Archery/v_Archery_g08_c01.avi"]}


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["notes.txt"], {}, "src: no class folders"),
        (["Archery/notes.txt"], {}, "Archery: no .avi clip in this class folder"),
        (["train/Archery/notes.txt"], {}, "no .avi clip in this class folder"),
        (["Archery/clip.avi"], {}, "'clip.avi' is not named v_<Class>_g##_c##.avi"),
        (["clip.avi"], {}, "'clip.avi' is not named v_<Class>_g##_c##.avi"),
        (["Archery/v_Archery_g08_c01.avi"], {"num_frames": 0}, "--num_frames 0 takes no frame"),
        (["Archery/v_Archery_g08_c01.avi"], {"val_fraction": 1.0}, "--val_fraction 1.0 is not a share"),
        (["train/Archery/a.avi"], {"split_lists": Path("lists")}, "the folders are splits already"),
        (["train/v_Archery_g08_c01.avi", "train/x/b.txt"], {}, "no .avi clip in this class folder"),
        (["v_Biking_g08_c01.avi", "Biking/v_Biking_g09_c01.avi"], {}, "clips here and in Biking/ as well"),
        (["train/A/a.avi", "train/A/a.AVI"], {}, "would share their frames' names"),
        (["train/A/a.avi", "train/A/b.avi/c"], {}, "b.avi: named like a clip, but not a file"),
        (["Archery/v_Archery_g08_c01.avi"], {"split": "3"}, "--split 3 without --split_lists"),
    ],
)
def test_a_source_that_cannot_be_right_is_named(
    touch_clips: Callable[..., Path],
    write_lists: Callable[..., Path],
    names: list[str],
    options: dict[str, object],
    message: str,
) -> None:
    if "split_lists" in options:
        options = {"split_lists": write_lists(train=[], test=[])}

    with pytest.raises(UserError, match=message) as caught:
        splits(src_dir=touch_clips(*names), **options)

    assert caught.value.fix


def test_upper_case_endings_and_empty_split_folders(touch_clips: Callable[..., Path]) -> None:
    source = touch_clips("train/Archery/A.AVI", "val/.keep")

    assert splits(src_dir=source) == {"train": ["Archery/A.AVI"]}


@pytest.mark.parametrize("label", ["a<|end|>b", "a\\b", "a\nb"])
def test_a_class_that_no_record_can_hold_is_named(draw_clip: DrawClip, tmp_path: Path, label: str) -> None:
    draw_clip(tmp_path / "src/train" / label / "a.avi", 2)

    with pytest.raises(UserError, match="breaks the contract") as caught:
        list(convert("ucf101", ucf101.Options(src_dir=tmp_path / "src"), out_dir=tmp_path / "out"))

    assert caught.value.fix == "mend the text or the name that it is made from"
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_list_with_a_byte_order_mark_or_in_another_encoding(write_lists: Callable[..., Path]) -> None:
    lists = write_lists(train=["Archery/a.avi"], test=[])
    path = lists / "trainlist01.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())

    assert read_lists(lists, "1")["a.avi"].label == "Archery"
    path.write_bytes("Höhle/a.avi 1".encode("latin-1"))
    with pytest.raises(UserError, match="cannot read this list"):
        read_lists(lists, "1")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder"):
        splits(src_dir=tmp_path / "nowhere")


def test_a_clip_in_neither_list_is_named(touch_clips: Callable[..., Path], write_lists: Callable[..., Path]) -> None:
    lists = write_lists(train=group_names("Archery", [8]), test=[])

    with pytest.raises(UserError, match="v_Archery_g09_c01.avi: this clip is in neither official list"):
        splits(src_dir=touch_clips(*group_names("Archery", [9])), split_lists=lists)


def test_a_line_that_is_no_entry_is_named(write_lists: Callable[..., Path]) -> None:
    lists = write_lists(train=["Archery/a.avi", "nonsense"], test=[])

    with pytest.raises(UserError, match=r"trainlist01.txt:2: 'nonsense 1' is not <Class>/<file>"):
        read_lists(lists, "1")


def test_a_broken_clip_stops_the_run_and_leaves_no_jsonl(draw_clip: DrawClip, tmp_path: Path) -> None:
    draw_clip(tmp_path / "src/train/Archery/a.avi")
    (tmp_path / "src/train/Archery/b.avi").write_bytes(b"no video")

    with pytest.raises(UserError, match="b.avi: cannot decode this video"):
        list(convert("ucf101", ucf101.Options(src_dir=tmp_path / "src"), out_dir=tmp_path / "out"))

    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".convert", "images"]


def test_memory_does_not_grow_with_the_number_of_clips(draw_clip: DrawClip, tmp_path: Path) -> None:
    clip = draw_clip(tmp_path / "clip.avi", 8, size=(160, 120)).read_bytes()

    def peak(count: int) -> int:
        folder = tmp_path / str(count)
        for number in range(count):
            (folder / "train/Archery").mkdir(parents=True, exist_ok=True)
            (folder / "train/Archery" / f"{number:04d}.avi").write_bytes(clip)
        tracemalloc.start()
        for _ in convert("ucf101", ucf101.Options(src_dir=folder), out_dir=folder / "out"):
            pass
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(2)  # imports and caches

    # 80 clips hold 37 MB of frames; what grows is the list of names, and Python's table of them by 2 MB at once.
    assert peak(80) - peak(8) < 5_000_000


def test_the_known_classes_are_the_official_ones(shared: Path) -> None:
    lines = (shared / "realdata/ucf101/ucfTrainTestlist/classInd.txt").read_text().split()

    assert list(CLASSES) == lines[1::2]


def test_every_official_clip_finds_its_split(shared: Path) -> None:
    entries = read_lists(shared / "realdata/ucf101/ucfTrainTestlist", "1")

    counts = [sum(entry.split == split for entry in entries.values()) for split in ("train", "test")]
    assert counts == [9537, 3783]
    assert {entry.label for entry in entries.values()} == set(CLASSES)


def test_real_clips_equal_a_plain_sequential_decode(shared: Path, tmp_path: Path) -> None:
    """16 frames of the two real clips, against PyAV decoding everything and against OpenCV's reader."""
    import av
    import cv2
    import numpy as np

    source = shared / "realdata/ucf101"
    options = ucf101.Options(src_dir=source, split_lists=source / "ucfTrainTestlist")

    records = converted(options, tmp_path)

    placed = {record.turns[0].assistant: record.id for record in records}
    assert placed == {"SoccerJuggling": "train-0000000000", "ApplyEyeMakeup": "test-0000000001"}
    compared = 0
    for record in records:
        name = Path(record.images[0]).name.removesuffix(".0.jpg")
        clip = source / "UCF-101" / str(record.turns[0].assistant) / f"{name}.avi"
        with av.open(str(clip)) as container:
            plain = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
        capture = cv2.VideoCapture(str(clip))
        witness = [capture.read()[1] for _ in plain]
        for number, image in enumerate(record.images):
            index = number * len(plain) // 8
            jpeg = (tmp_path / "images" / image).read_bytes()
            assert jpeg == cv2.imencode(".jpg", plain[index], [cv2.IMWRITE_JPEG_QUALITY, 75])[1].tobytes()
            decoded = cv2.imdecode(np.frombuffer(jpeg, dtype=np.uint8), cv2.IMREAD_COLOR)
            assert np.abs(decoded.astype(int) - witness[index].astype(int)).mean() < 4
            compared += 1
    assert compared == 16


def test_the_bundled_clips_become_their_golden_records(fixtures: Path, tmp_path: Path) -> None:
    options = ucf101.Options(src_dir=fixtures / "ucf101", num_frames=2)

    list(convert("ucf101", options, out_dir=tmp_path))

    written = "".join((tmp_path / f"ucf101_{split}.jsonl").read_text() for split in ("train", "val", "test"))
    assert written == (fixtures / "golden" / "ucf101.jsonl").read_text()
    records = [Conversation.from_line(line) for line in written.splitlines()]
    assert [len(json.loads(line)["conversations"]) for line in written.splitlines()] == [1] * len(records)


def test_the_bundled_clips_show_what_their_script_draws(fixtures: Path) -> None:
    """Lossy codec, so not equal, but close in every frame."""
    import importlib.util

    import numpy as np

    from phi3v.converters.video import read_frames

    spec = importlib.util.spec_from_file_location("make_clips", fixtures / "ucf101" / "make_clips.py")
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    for clip in sorted((fixtures / "ucf101").glob("*/*/*.avi")):
        drawn = list(script.frames(clip.parent.name, int(clip.stem.split("_g")[1][:2])))
        found = read_frames(clip, Sampling(count=len(drawn))).frames
        assert len(found) == len(drawn)
        error = [np.abs(one.astype(int) - other.astype(int)).mean() for one, other in zip(drawn, found, strict=True)]
        assert max(error) < 6, clip
