"""Hateful Memes: 10,000 memes, hateful or not, where often neither the picture nor the text alone tells.

Source:  Facebook AI's challenge of 2020; its pages are gone. Without a --src_dir what the original recipe trained on is
         fetched from the hub: the hateful_memes part of HuggingFaceM4/the_cauldron, the 8,500 training memes.
Licence: Facebook's Hateful Memes licence, for research; not to be passed on.
Layouts: img/ with train, dev and test .jsonl (phase 1), or train, dev_seen, dev_unseen, test_seen and test_unseen
         .jsonl (phase 2), also below data/; or the_cauldron's Parquet files.
Turns:   one; the meme and one of the recipe's 11 questions, drawn for each meme; `Yes.` or `No.`. The text on the meme
         is given to the model only with --with_text.
Splits:  as published, dev as val; a meme of both dev files is taken once. Test files without labels give records that
         can be predicted, not scored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple

from phi3v.converters.annotations import Fault, Row, read_json_lines, refuse_again
from phi3v.converters.base import SourceError
from phi3v.converters.cauldron import Example, cauldron_files, read_cauldron, recipe_split
from phi3v.converters.pictured import Picked, find_picture, image_folders, name_of
from phi3v.converters.posed import Posed, check_answered, faulty, render
from phi3v.converters.prompts import check_templates, choose, fields_of, fill
from phi3v.converters.recipe import cauldron_part, comparison, fetch_parts, where_to_apply
from phi3v.converters.recipe_prompts import HATEFUL_MEMES, MEME_TEXT
from phi3v.schema import Turn, UserError

__all__ = ["MODULES", "SUMMARY", "Options", "fetch", "plan", "remarks", "render"]

SUMMARY = "Hateful Memes: is this meme hateful? Yes. or No."
MODULES = ("pyarrow",)
FIELDS = ("text",)
ANSWERS = {0: "No.", 1: "Yes."}
SPLIT_FILES: dict[str, dict[str, tuple[str, ...]]] = {
    "1": {"train": ("train",), "val": ("dev",), "test": ("test",)},
    "2": {"train": ("train",), "val": ("dev_seen", "dev_unseen"), "test": ("test_seen", "test_unseen")},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `phi3v-data convert hateful_memes` takes."""

    src_dir: Annotated[Path | None, "The unpacked data; without it the recipe's are fetched from the hub."] = None
    from_: Annotated[
        Literal["mini", "full", "official"],
        "What to fetch: the first 1,000 memes of the_cauldron; all; nothing, but say how to get the official files.",
    ] = "full"
    image_dir: Annotated[Path | None, "The folder that holds img/. [default: --src_dir, or data/ in it]"] = None
    phase: Annotated[Literal["1", "2"] | None, "Of the challenge, where the files of both are there."] = None
    with_text: Annotated[bool, "Give the text on the meme to the model, which the recipe does not."] = False
    prompt: Annotated[tuple[str, ...], "Template, with {text} if wanted; one of several is drawn for each meme."] = ()
    seed: Annotated[int, "Of that draw."] = 0
    recipe_splits: Annotated[bool, "the_cauldron's first 500 rows are val, the rest train, as in the recipe."] = False


class Meme(NamedTuple):
    """A row of an annotation file, and the name of that file."""

    split: str
    row: Row
    file: str


def plan(options: Options) -> Iterable[Posed]:
    """Return the memes, split by split, in the order of the files; rows of Parquet one by one."""
    check_templates("--prompt", options.prompt, FIELDS)
    assert options.src_dir is not None, "fetched before the plan"
    roots = (options.src_dir / "data", options.src_dir)
    root = next((path for path in roots if (path / "train.jsonl").exists()), options.src_dir)
    files = _annotations(root, options.phase)
    parquet = [] if files else cauldron_files(options.src_dir)
    if not files and not parquet:
        fix = "point --src_dir at the folder with train.jsonl and img/"
        raise UserError("no annotations of Hateful Memes here", where=options.src_dir, fix=fix)
    if files:
        if options.recipe_splits:
            what = "--recipe_splits splits the_cauldron's rows, and these are none"
            raise UserError(what, where=root, fix="leave --src_dir out, and they are fetched")
        if (packed := root / "img.tar.gz").is_file() and not (root / "img").is_dir() and options.image_dir is None:
            raise UserError("the pictures are still packed", where=packed, fix=f"tar -xzf {packed} -C {root}")
        return list(_official(files, root, image_folders(root, options.image_dir, ("", "data")), options))
    if options.with_text or any("text" in fields_of(template) for template in options.prompt):
        raise UserError("the_cauldron has no text of the memes", where=options.src_dir, fix="take the official files")
    root = options.src_dir if options.src_dir.is_dir() else options.src_dir.parent
    return (_of_example(one, options) for one in read_cauldron(parquet, root, pictures=1))


def fetch(options: Options, folder: Path) -> Options:
    """Fetch what the recipe trained on."""
    if options.from_ == "official":
        where = "the challenge's pages are gone; accept Facebook's licence where you find the files"
        raise where_to_apply("hateful_memes", where, "FOLDER_WITH_img_AND_JSONL")
    fetch_parts([cauldron_part("hateful_memes", mini=options.from_ == "mini")], folder)
    return replace(options, src_dir=folder)


def remarks(options: Options, content: Mapping[str, Any]) -> dict[str, Any]:
    """Say in the manifest what was fetched, and whether it equals the recipe's data."""
    assert options.src_dir is not None, "fetched before"
    differs = {
        "--recipe_splits was not given": not options.recipe_splits,
        "--prompt was given": bool(options.prompt),
        "--with_text was given": options.with_text,
    }
    counts = {"train": 8000, "val": 500}
    return comparison(options.src_dir, content, differs, counts)


def _annotations(root: Path, phase: str | None) -> list[tuple[str, Path]]:
    """Return the annotation files with their splits; those that are not there are left out."""
    there = {
        number: [
            (split, path)
            for split, names in files.items()
            for name in names
            if (path := root / f"{name}.jsonl").is_file()
        ]
        for number, files in SPLIT_FILES.items()
    }
    tests = [number for number, found in there.items() if any(split != "train" for split, _ in found)]
    if phase is None and len(tests) > 1:
        raise UserError("files of both phases of the challenge", where=root, fix="give --phase 1 or --phase 2")
    return there[phase or (tests[0] if tests else "1")]


def _official(files: list[tuple[str, Path]], root: Path, folders: list[Path], options: Options) -> Iterator[Posed]:
    seen: dict[tuple[str, str], str] = {}
    files_of: dict[tuple[str, str], str] = {}
    for split, path in files:
        for row in read_json_lines(path, path.relative_to(root).as_posix()):
            image = row.data.get("img")
            key = (split, image if isinstance(image, str) else row.place)
            if files_of.setdefault(key, path.stem) != path.stem:
                continue  # dev_seen and dev_unseen share memes
            try:
                row.check()
                refuse_again(seen, key, row, f"picture {row.text('img')!r}")
                yield _pose(Meme(split, row, path.stem), folders, options)
            except SourceError as error:
                yield faulty(split, row.place, Fault.of(error))


def _pose(meme: Meme, folders: list[Path], options: Options) -> Posed:
    row = meme.row
    image = row.text("img")
    path = find_picture(image, folders, where=row.place)
    label = _label(row)
    templates = options.prompt or HATEFUL_MEMES
    number = choose(templates, image, options.seed)
    text = row.text("text") if "text" in row.data or options.with_text else ""
    question = (fill(MEME_TEXT, {"text": text}) if options.with_text else "") + fill(templates[number], {"text": text})
    # The id is an int in some copies, and 5 digits in others; the picture's name is the same in all.
    metadata = {"meme": PurePosixPath(image).stem, "file": meme.file, "text": text, "label": label, "prompt": number}
    turn = Turn(user=question, assistant=None if label is None else ANSWERS[label])
    check_answered(meme.split, [turn], row.place)
    dropped = {"prompt"} if len(templates) == 1 else set()
    return Posed(
        split=meme.split,
        source=row.place,
        files=(path,),
        turns=(turn,),
        pictures=(Picked(name_of(PurePosixPath(PurePosixPath(image).name)), path),),
        label=turn.assistant,
        metadata={key: value for key, value in metadata.items() if value not in (None, "") and key not in dropped},
    )


def _label(row: Row) -> int | None:
    """Return 0 or 1, whatever the copy spells; None where it is secret."""
    label = row.data.get("label")
    if label is None:
        return None
    known = {"0": 0, "1": 1, "not-hateful": 0, "hateful": 1}
    if str(label) not in known or isinstance(label, bool):
        raise SourceError("unknown-label", f"label {label!r:.40}, not 0 or 1", where=row.place, fix="mend this row")
    return known[str(label)]


def _of_example(example: Example, options: Options) -> Posed:
    split = recipe_split(example.number) if options.recipe_splits else "train"
    if example.row.fault:
        return faulty(split, example.row.place, example.row.fault)
    text = example.texts[0]  # the only one, and the only one that the recipe reads
    label = {answer: label for label, answer in ANSWERS.items()}.get(text.assistant)
    if label is None:
        fault = Fault("unknown-label", f"answer {text.assistant!r:.40}, not 'Yes.' or 'No.'")
        return faulty(split, example.row.place, fault)
    templates = options.prompt
    number = choose(templates, example.row.place, options.seed) if templates else 0
    question = fill(templates[number], {"text": ""}) if templates else text.user
    return Posed(
        split=split,
        source=example.row.place,
        turns=(Turn(user=question, assistant=text.assistant),),
        pictures=example.pictures,
        label=text.assistant,
        metadata={"label": label} | ({"prompt": number} if len(templates) > 1 else {}),
    )
