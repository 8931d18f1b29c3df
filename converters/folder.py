"""A folder of yours: pictures or videos in class folders, or with a caption each.

Source:  --src_dir: CLASS/*.jpg; or any pictures with NAME.txt beside NAME.jpg; or pictures and a metadata.csv or
         metadata.jsonl with `file_name` and `text`, as Hugging Face's ImageFolder has it. Videos likewise.
Licence: yours.
Turns:   one; the picture, or --num_frames of the video, and the list of classes or a request for a caption; the
         class or the caption is the answer. --record REGEX makes several pictures one record.
Splits:  by folders train/, val/ and test/ (or the hub's names for them), else one record in ten is val, by a hash of
         its name, or of what --group REGEX finds in it: new files move no old one.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NamedTuple

from phi3v.converters.annotations import Fault
from phi3v.converters.base import SPLITS, Draft, SourceError
from phi3v.converters.captions import captioned_records, captions_of, metadata_of, read_caption
from phi3v.converters.columns import ColumnOptions, Place
from phi3v.converters.images import encode_jpeg, safe_name
from phi3v.converters.pictured import Picked, name_of
from phi3v.converters.posed import Posed, faulty
from phi3v.converters.posed import render as render_posed
from phi3v.converters.prompts import check_templates, choose, fill
from phi3v.converters.sampling import Sampling
from phi3v.converters.splits import SPLIT_OF, check_fractions, hashed_split
from phi3v.converters.video import read_frames
from phi3v.schema import Turn, UserError

SUMMARY = "A folder of yours: pictures or videos, in class folders or with captions"
MODULES = ("av", "cv2")

PICTURES = {".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}
# Not read, and told so one by one: nobody wants these left out in silence.
UNREAD = {".heic", ".heif", ".avif", ".jxl", ".svg", ".psd"}
VIDEOS = {".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv"}
CLASSIFY = "Classify the {what} into one of the following classes: {{classes}}."
DESCRIBE = "Describe the {what}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `phi3v-data convert folder` takes."""

    src_dir: Annotated[Path, "The folder."]
    record: Annotated[
        str | None, "Regular expression on paths without suffix: what its first group finds makes files one record."
    ] = None
    group: Annotated[str | None, "Likewise: files that share it lie in one split. [default: --record]"] = None
    val_fraction: Annotated[float, "Share that is val, where no folders are splits."] = 0.1
    test_fraction: Annotated[float, "Share that is test, likewise."] = 0.0
    caption_column: Annotated[str, "Of metadata.csv or metadata.jsonl."] = "text"
    num_frames: Annotated[int, "Frames taken from each video, at even distances from the first."] = 8
    prompt: Annotated[tuple[str, ...], "Template, with {classes} if wanted; one of several is drawn a record."] = ()
    seed: Annotated[int, "Of that draw."] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip(Posed):
    """An item whose images are the frames of a video.

    Attributes:
        name: of the images, before the frame's number.
    """

    video: Path
    name: str
    sampling: Sampling


class Part(NamedTuple):
    """A folder whose files are of one split, or of one that a hash decides."""

    split: str | None
    root: Path


def plan(options: Options) -> list[Posed]:
    """Return the records, split by split, in the order of their names."""
    check_fractions(options.val_fraction, options.test_fraction)
    Sampling(count=options.num_frames)  # refuses what no video can give
    if not options.src_dir.is_dir():
        raise UserError("no such folder", where=options.src_dir, fix="point --src_dir at the pictures")
    parts = _parts(options.src_dir)
    if any(metadata_of(part.root) for part in parts):
        return list(_from_tables(parts, options))
    files = [(part, path) for part in parts for path in _files(part.root)]
    if not files:
        raise UserError("no pictures or videos here", where=options.src_dir, fix="point --src_dir at them")
    captioned = any(path.with_suffix(".txt").is_file() for _, path in files)
    check_templates("--prompt", options.prompt, () if captioned else ("classes",))
    return list(_records(files, options, captioned=captioned))


def _from_tables(parts: list[Part], options: Options) -> Iterator[Posed]:
    if options.record or options.group:
        what = "--record and --group find nothing where a metadata file says which pictures are a record"
        raise UserError(what, where=options.src_dir, fix="leave them out, or see phi3v-data convert table --help")
    columns = ColumnOptions(
        user=options.prompt or (DESCRIBE.format(what="image"),),
        seed=options.seed,
        val_fraction=options.val_fraction,
        test_fraction=options.test_fraction,
    )
    for part in parts:
        table = metadata_of(part.root)
        if table is None:
            raise UserError("no metadata file here, but one beside", where=part.root, fix="write one for each split")
        place = Place(part.split, part.root, safe_name(table.stem))
        yield from captioned_records(table, options.src_dir, place, columns, options.caption_column)


def _pattern(flag: str, text: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(text) if text else None
    except re.error as error:
        raise UserError(
            f"{flag} {text!r} is no regular expression ({error})", fix="such as '(.+)_view[0-9]+'"
        ) from error


def _parts(src_dir: Path) -> list[Part]:
    """Return the folders of splits, in the order train, val, test; or the folder itself."""
    folders = [path for path in sorted(src_dir.iterdir()) if path.is_dir() and path.name.lower() in SPLIT_OF]
    found = [Part(SPLIT_OF[path.name.lower()], path) for path in folders]
    if len({part.split for part in found}) < len(found):
        names = ", ".join(part.root.name for part in found)
        raise UserError(f"two folders are the same split: {names}", where=src_dir, fix="move one into the other")
    return sorted(found, key=lambda part: SPLITS.index(str(part.split))) or [Part(None, src_dir)]


def _files(root: Path) -> list[Path]:
    suffixes = PICTURES | UNREAD | VIDEOS
    paths = (path for path in root.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    return sorted(path for path in paths if not any(part.startswith(".") for part in path.relative_to(root).parts))


def _records(files: list[tuple[Part, Path]], options: Options, *, captioned: bool) -> Iterator[Posed]:
    record, group = _pattern("--record", options.record), _pattern("--group", options.group)
    members: dict[tuple[Part, str, str], list[Path]] = defaultdict(list)
    for part, path in files:
        members[part, "" if captioned else _class(part, path), _key(record, part, path)].append(path)
    classes = sorted({label for _, label, _ in members})
    if not captioned and len(classes) < 2:  # noqa: PLR2004  # a choice
        fix = "one folder a class, or a text file beside each picture"
        raise UserError(f"one class only: {classes[0]!r}", where=options.src_dir, fix=fix)
    for (part, label, key), paths in members.items():
        # What a group finds may lie in several classes, such as a person.
        together = _key(group, part, paths[0]) if group else f"{label}/{key}"
        split = part.split or hashed_split(together, options.val_fraction, options.test_fraction)
        place = paths[0].relative_to(options.src_dir).as_posix()
        try:
            answer = read_caption(paths) if captioned else label
            user, metadata = _asked(place, paths, classes, options)
            posed = Posed(
                split=split,
                source=place,
                files=(*paths, *captions_of(paths)) if captioned else tuple(paths),
                turns=(Turn(user=user, assistant=answer),),
                label=None if captioned else label,
                metadata=metadata,
            )
            yield _shown(posed, part, paths, options.num_frames)
        except SourceError as error:
            faulty_one = faulty(split, place, Fault.of(error))
            yield replace(faulty_one, files=(*paths, *captions_of(paths)))


def _asked(place: str, paths: list[Path], classes: list[str], options: Options) -> tuple[str, dict[str, Any]]:
    """Return what the user says, and what the record's metadata say of it."""
    what = "video" if _is_video(paths[0]) else "image" if len(paths) == 1 else "images"
    prompts = options.prompt or ((CLASSIFY if classes != [""] else DESCRIBE).format(what=what),)
    number = choose(prompts, place, options.seed)
    return fill(prompts[number], {"classes": ", ".join(classes)}), {"prompt": number} if len(prompts) > 1 else {}


def _shown(posed: Posed, part: Part, paths: list[Path], num_frames: int) -> Posed:
    """Return the item with what it shows: pictures, or the frames of one video."""
    names = [name_of(PurePosixPath(path.relative_to(part.root).as_posix())) for path in paths]
    if not any(_is_video(path) for path in paths):
        return replace(posed, pictures=tuple(map(Picked, names, paths)))
    if len(paths) > 1:
        what = f"a video and other files in one record: {', '.join(path.name for path in paths[:4])}"
        raise SourceError("mixed", what, where=posed.source, fix="give a --record that keeps videos apart")
    fields = {field.name: getattr(posed, field.name) for field in dataclasses.fields(posed)}
    return Clip(**fields, video=paths[0], name=names[0], sampling=Sampling(count=num_frames))


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEOS


def _class(part: Part, path: Path) -> str:
    inner = path.relative_to(part.root).parts
    if len(inner) == 1:
        fix = "put it into the folder of its class, or a caption beside it, or lay out train/, val/ and test/"
        raise UserError("lies in no class folder", where=path, fix=fix)
    return inner[0]


def _key(pattern: re.Pattern[str] | None, part: Part, path: Path) -> str:
    """Return what the pattern finds in a file's path; the path itself where it finds nothing."""
    whole = path.relative_to(part.root)
    found = pattern.search(whole.with_suffix("").as_posix()) if pattern else None
    return found[found.re.groups and 1] if found else whole.as_posix()


def render(item: Posed) -> Draft:
    """Read one record's pictures, or its video's frames."""
    if not isinstance(item, Clip):
        return render_posed(item)
    sampled = read_frames(item.video, item.sampling)
    images = {
        f"{item.split}/{item.name}.{number}.jpg": encode_jpeg(frame) for number, frame in enumerate(sampled.frames)
    }
    note = f"{sampled.total} of {sampled.announced} announced frames decode"
    return Draft(
        turns=(replace(item.turns[0], images=tuple(images)),),
        images=images,
        label=item.label,
        metadata=item.metadata or None,
        notes=(note,) if sampled.total < sampled.announced else (),
    )
