"""UCF-101: 13,320 clips of 101 human actions, one label a clip.

Source:  https://www.crcv.ucf.edu/data/UCF101.php, about 6.5 GB; without a --src_dir the 10-class subset
         sayakpaul/ucf101-subset of the hub, 405 clips, 171 MB.
Licence: none stated; clips from YouTube, for research.
Layouts: {train,val,test}/<Class>/*.avi (the subset), UCF-101/<Class>/*.avi (the official archive), or all
         clips in one flat folder, as `unrar e` leaves them.
Turns:   one; the frames of the clip, then the class list; the answer is the class.
Splits:  as the folders say; else by group (the g## in v_<Class>_g##_c##.avi), never by clip: clips of one group
         are cut from one video, and splitting them leaks the test set. Groups 01 to 07 are the test set, as in
         the official first split, or the official lists say which clips are. The validation set is cut from the
         training groups of each class.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from phi3v.converters.archive import unpack
from phi3v.converters.base import SPLITS, Draft, Item, SourceError
from phi3v.converters.download import hub_file
from phi3v.converters.images import encode_jpeg
from phi3v.converters.sampling import Method, Sampling, Short
from phi3v.converters.splits import validation_groups
from phi3v.converters.ucf101_lists import CLASSES, Entry, read_lists
from phi3v.converters.video import Decode, read_frames
from phi3v.schema import Turn, UserError

SUMMARY = "UCF-101 action clips, as N frames and a class question"
MODULES = ("av", "cv2")

CLIP = re.compile(r"v_(?P<label>\w+)_g(?P<group>\d{2})_c\d{2}\.avi", re.IGNORECASE)
LAST_TEST_GROUP = 7
SUBSET = ("sayakpaul/ucf101-subset", "UCF101_subset.tar.gz")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `phi3v-data convert ucf101` takes."""

    src_dir: Annotated[Path | None, "The unpacked clips; without it the 10-class subset is fetched from the hub."] = (
        None
    )
    split_lists: Annotated[Path | None, "Folder of the official trainlist0N.txt and testlist0N.txt."] = None
    split: Annotated[Literal["1", "2", "3"] | None, "Which of the official lists. [default: 1]"] = None
    val_fraction: Annotated[float, "Share of each class's training groups that becomes the validation split."] = 0.2
    num_frames: Annotated[int, "Frames taken from each clip; with --sampling fps the most that are taken."] = 8
    sampling: Annotated[
        Method, "At even distances from the first frame, the middles of equal segments, or --fps frames a second."
    ] = "even"
    fps: Annotated[float, "Frames a second, for --sampling fps."] = 1.0
    short: Annotated[
        Short, "A clip of fewer than --num_frames frames: take each once, take some again, or reject it."
    ] = "fewer"
    decode: Annotated[
        Decode, "Decode what the wanted frames need, or all of a clip, which finds damage in between, too."
    ] = "needed"
    incomplete: Annotated[
        Literal["use", "reject"], "A clip with fewer frames than its header announces: sample what there is, or reject."
    ] = "use"
    frame_metadata: Annotated[bool, "Write the frames' indices and seconds to metadata."] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip(Item):
    """One item of the plan."""

    path: Path
    label: str
    labels: tuple[str, ...]
    options: Options


@dataclass(frozen=True, slots=True)
class Found:
    """A clip in the source: its class, and its split where the folders tell it."""

    path: Path
    label: str
    split: str | None = None


def plan(options: Options) -> list[Clip]:
    """Return the clips by split, class and name, so that two runs number them alike."""
    _sampling(options)  # refuses what no clip can give
    if not 0 <= options.val_fraction < 1:
        raise UserError(f"--val_fraction {options.val_fraction} is not a share", fix="give 0 (none) or more, below 1")
    if options.split and not options.split_lists:
        raise UserError(f"--split {options.split} without --split_lists", fix="say where the official lists are")
    official = read_lists(options.split_lists, options.split or "1") if options.split_lists else {}
    found = _find(options, official)
    split_of = _splits(found, official, options.val_fraction)
    labels = tuple(sorted({clip.label for clip in found}))
    ordered = sorted(found, key=lambda clip: (SPLITS.index(split_of[clip]), clip.label, clip.path.name))
    _refuse_shared_names(ordered, split_of)
    assert options.src_dir is not None, "fetched before the plan"
    return [
        Clip(
            split=split_of[clip],
            source=clip.path.relative_to(options.src_dir).as_posix(),
            files=(clip.path,),
            path=clip.path,
            label=clip.label,
            labels=labels,
            options=options,
        )
        for clip in ordered
    ]


def render(clip: Clip) -> Draft:
    """Sample and encode one clip's frames."""
    sampled = read_frames(clip.path, _sampling(clip.options), decode=clip.options.decode)
    notes = []
    if sampled.total < sampled.announced:
        what = f"{sampled.total} of {sampled.announced} announced frames decode"
        if clip.options.incomplete == "reject":
            raise SourceError("incomplete", what, where=clip.path, fix="fetch it again, or give --incomplete use")
        notes.append(what)
    stem = f"{clip.split}/{clip.label}/{clip.path.stem}"
    images = {f"{stem}.{number}.jpg": encode_jpeg(frame) for number, frame in enumerate(sampled.frames)}
    question = f"Classify the video into one of the following classes: {', '.join(clip.labels)}."
    turn = Turn(user=question, assistant=clip.label, images=tuple(images))
    frames = {"frames": sampled.indices, "seconds": [round(second, 6) for second in sampled.seconds]}
    metadata = frames if clip.options.frame_metadata else None
    return Draft(turns=(turn,), images=images, label=clip.label, metadata=metadata, notes=tuple(notes))


def _sampling(options: Options) -> Sampling:
    return Sampling(count=options.num_frames, method=options.sampling, fps=options.fps, short=options.short)


def fetch(options: Options, folder: Path) -> Options:
    """Fetch the 10-class subset."""
    if options.split_lists:
        raise UserError("--split_lists goes with a --src_dir; the subset has splits of its own", fix="leave it out")
    repo, name = SUBSET
    by_hand = f"download {name} of the data set {repo} elsewhere, unpack it, and give its folder as --src_dir"
    unpack(hub_file(repo, name, by_hand=by_hand), folder)
    return replace(options, src_dir=folder)


def _find(options: Options, official: dict[str, Entry]) -> list[Found]:
    """Return every clip of the source, in whichever layout it is."""
    assert options.src_dir is not None, "fetched before the plan"
    if not options.src_dir.is_dir():
        raise UserError("no such folder", where=options.src_dir, fix="point --src_dir at the unpacked clips")
    # The archives unpack to a folder of their own name; it is taken, and so is its parent.
    inner = [path for name in ("UCF101_subset", "UCF-101") if (path := options.src_dir / name).is_dir()]
    root = inner[0] if inner else options.src_dir
    splits = [split for split in SPLITS if (root / split).is_dir() and _folders(root / split)]
    if splits and options.split_lists:
        raise UserError("--split_lists, but the folders are splits already", where=root, fix="leave --split_lists out")
    if splits:
        return [replace(clip, split=split) for split in splits for clip in _in_class_folders(root / split)]
    if flat := _clips(root):
        if nested := [folder for folder in _folders(root) if _clips(folder)]:
            fix = f"move {flat[0].name} into its class folder, or all clips here"
            raise UserError(f"clips here and in {nested[0].name}/ as well", where=root, fix=fix)
        spelling = {name.lower(): name for name in CLASSES}
        return [Found(path, _label(path, official, spelling)) for path in flat]
    return _in_class_folders(root)


def _in_class_folders(root: Path) -> list[Found]:
    folders = _folders(root)
    if not folders:
        fix = "point --src_dir at the unpacked UCF-101, or lay the clips out as {train,val,test}/<Class>/*.avi"
        raise UserError("no class folders", where=root, fix=fix)
    found = []
    for folder in folders:
        clips = _clips(folder)
        if not clips:
            raise UserError("no .avi clip in this class folder", where=folder, fix="remove it, or put its clips there")
        found += [Found(path, folder.name) for path in clips]
    return found


def _folders(root: Path) -> list[Path]:
    return [path for path in _listing(root) if path.is_dir()]


def _clips(folder: Path) -> list[Path]:
    clips = [path for path in _listing(folder) if path.suffix.lower() == ".avi"]
    for path in clips:
        if not path.is_file():
            raise UserError("named like a clip, but not a file", where=path, fix="remove it, or put the clip there")
    return clips


def _listing(folder: Path) -> list[Path]:
    """Return what lies in a folder, in name order; names with a dot in front are leftovers of macOS archives."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"cannot read this folder ({error.strerror})", where=folder, fix="make it readable") from error


def _refuse_shared_names(ordered: list[Found], split_of: dict[Found, str]) -> None:
    for one, other in pairwise(ordered):
        if (one.label, one.path.stem, split_of[one]) == (other.label, other.path.stem, split_of[other]):
            what = f"{one.path.name} and {other.path.name} would share their frames' names"
            raise UserError(what, where=other.path.parent, fix="rename one of them")


def _label(path: Path, official: dict[str, Entry], spelling: dict[str, str]) -> str:
    """Return the class of a clip that lies in no class folder; `spelling` gains the classes that UCF-101 lacks."""
    if entry := official.get(path.name.lower()):
        return entry.label
    label = _named(path)["label"]
    return spelling.setdefault(label.lower(), label)


def _named(path: Path) -> re.Match[str]:
    match = CLIP.fullmatch(path.name)
    if match is None:
        fix = "rename it, or lay the clips out as {train,val,test}/<Class>/"
        raise UserError(f"{path.name!r} is not named v_<Class>_g##_c##.avi", where=path.parent, fix=fix)
    return match


def _splits(found: list[Found], official: dict[str, Entry], val_fraction: float) -> dict[Found, str]:
    """Return each clip's split: as its folder says, else as published, with validation cut from training by group."""
    splits = {clip: clip.split or _published_split(clip.path, official) for clip in found}
    groups: dict[str, set[int]] = {}
    pool = [clip for clip, split in splits.items() if split == "train" and clip.split is None]
    for clip in pool:
        groups.setdefault(clip.label, set()).add(_group(clip.path))
    held_out = {label: validation_groups(numbers, val_fraction) for label, numbers in groups.items()}
    return splits | {clip: "val" for clip in pool if _group(clip.path) in held_out[clip.label]}


def _published_split(path: Path, official: dict[str, Entry]) -> str:
    if not official:
        return "test" if _group(path) <= LAST_TEST_GROUP else "train"
    if path.name.lower() not in official:
        raise UserError(
            "this clip is in neither official list", where=path, fix="remove it, or leave --split_lists out"
        )
    return official[path.name.lower()].split


def _group(path: Path) -> int:
    return int(_named(path)["group"])
