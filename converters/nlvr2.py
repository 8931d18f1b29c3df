"""NLVR2: 107,292 sentences about pairs of photographs, true or false.

Source:  https://lil.nlp.cornell.edu/nlvr/ (annotations: github.com/lil-lab/nlvr; pictures after an application).
         Without a --src_dir what the original recipe trained on is fetched from the hub: the nlvr2 part of
         HuggingFaceM4/the_cauldron, the 86,373 training sentences.
Licence: annotations CC-BY-4.0; the photographs come from the web and are not licensed.
Layouts: data/{train,dev,test1,test2}.json, one JSON object a line, also balanced/ and unbalanced/; pictures in
         images/{train/<directory>,dev,test1,test2}/ or in one folder, PNG in name only; one annotation file alone; or
         the_cauldron's Parquet files.
Turns:   one; the left picture, the right one, and one of the recipe's 8 questions with the sentence in it, drawn for
         each; `Yes.` or `No.`. With --turns pair the sentences of a pair are the turns of one record.
Splits:  as published, dev as val, test1 as test (--test test2 takes the other). The published splits share photographs:
         `phi3v-data validate` names them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from phi3v.converters.annotations import Fault, Row, read_json_lines, refuse_again
from phi3v.converters.base import SourceError
from phi3v.converters.cauldron import Example, cauldron_files, read_cauldron, recipe_split
from phi3v.converters.pictured import Picked, image_folders
from phi3v.converters.posed import Posed, check_answered, faulty, joined, render
from phi3v.converters.prompts import check_templates, choose, fill
from phi3v.converters.recipe import cauldron_part, comparison, fetch_parts, where_to_apply
from phi3v.converters.recipe_prompts import NLVR2
from phi3v.schema import Turn, UserError

__all__ = ["MODULES", "SUMMARY", "Options", "fetch", "plan", "remarks", "render"]

SUMMARY = "NLVR2: is the sentence true of the two photographs? Yes. or No."
MODULES = ("pyarrow",)
FIELDS = ("caption",)
ANSWERS = {"True": "Yes.", "False": "No."}
IDENTIFIER = re.compile(r"(?P<set>(?P<split>train|dev|test1|test2)-\d+)-(?P<pair>\d+)-(?P<sentence>\d+)")
FILES = {"train": "train", "dev": "val", "test1": "test", "test2": "test"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `phi3v-data convert nlvr2` takes."""

    src_dir: Annotated[
        Path | None, "The unpacked data, or one annotation file; without it the recipe's are fetched from the hub."
    ] = None
    from_: Annotated[
        Literal["mini", "full", "official"],
        "What to fetch: the first 1,000 rows of the_cauldron's nlvr2; all; nothing, but say how to get the official.",
    ] = "full"
    image_dir: Annotated[Path | None, "Where the pictures are. [default: images/ below --src_dir]"] = None
    subset: Annotated[
        Literal["all", "balanced", "unbalanced"], "Which sentences of dev and test: all, or those of these files."
    ] = "all"
    test: Annotated[Literal["test1", "test2"], "Which of the two published tests."] = "test1"
    turns: Annotated[Literal["sentence", "pair"], "One record a sentence, or a pair with its sentences as turns."] = (
        "sentence"
    )
    prompt: Annotated[tuple[str, ...], "Template with {caption}; one of several is drawn for each sentence."] = ()
    seed: Annotated[int, "Of that draw."] = 0
    recipe_splits: Annotated[bool, "the_cauldron's first 500 rows are val, the rest train, as in the recipe."] = False


def plan(options: Options) -> Iterable[Posed]:
    """Return the sentences, split by split, in the order of the files; rows of Parquet one by one."""
    check_templates("--prompt", options.prompt, FIELDS)
    assert options.src_dir is not None, "fetched before the plan"
    if not options.src_dir.exists():
        fix = "point --src_dir at the unpacked NLVR2"
        raise UserError("no such annotation file or folder", where=options.src_dir, fix=fix)
    root = options.src_dir if options.src_dir.is_dir() else options.src_dir.parent
    files = _annotations(options)
    if not files and (parquet := cauldron_files(options.src_dir)):
        if options.prompt:
            raise UserError("--prompt, but the_cauldron's texts hold their prompts", fix="leave it out")
        return (one for example in read_cauldron(parquet, root, pictures=2) for one in _of_example(example, options))
    if not files or options.recipe_splits:
        what = "--recipe_splits splits the_cauldron's rows" if files else f"no annotations of NLVR2 ({options.subset})"
        fix = "leave --src_dir out" if files else "point --src_dir at the folder with data/dev.json and images/"
        raise UserError(what, where=options.src_dir, fix=fix)
    folders = image_folders(root, options.image_dir, ("images", "nlvr2/images", ""))
    sentences = (one for split, path in files for one in _sentences(split, path, root, folders, options))
    return list(_pairs(sentences) if options.turns == "pair" else sentences)


def fetch(options: Options, folder: Path) -> Options:
    """Fetch what the recipe trained on."""
    if options.from_ == "official":
        where = "take the annotations from https://github.com/lil-lab/nlvr, apply for the pictures as it says"
        raise where_to_apply("nlvr2", where, "FOLDER_WITH_data_AND_images")
    fetch_parts([cauldron_part("nlvr2", mini=options.from_ == "mini")], folder)
    return replace(options, src_dir=folder)


def remarks(options: Options, content: Mapping[str, Any]) -> dict[str, Any]:
    """Say in the manifest what was fetched, and whether it equals the recipe's data."""
    assert options.src_dir is not None, "fetched before"
    differs = {
        "--recipe_splits was not given": not options.recipe_splits,
        "sentences stand alone; the recipe trains on a pair's as turns (--turns pair)": options.turns == "sentence",
    }
    return comparison(options.src_dir, content, differs)


def _annotations(options: Options) -> list[tuple[str, Path]]:
    """Return the annotation files with their splits; those that are not there are left out."""
    assert options.src_dir is not None
    if options.src_dir.is_file():
        told = [split for name, split in FILES.items() if name in options.src_dir.stem]
        return [] if options.src_dir.suffix == ".parquet" else [(told[0] if told else "train", options.src_dir)]
    folder = "" if options.subset == "all" else f"{options.subset}/{options.subset}_"
    names = ("train", "dev", options.test)
    roots = [options.src_dir / name for name in ("data", "nlvr2/data", "")]
    for root in roots:
        found = [(FILES[name], root / f"{'' if name == 'train' else folder}{name}.json") for name in names]
        if there := [(split, path) for split, path in found if path.is_file()]:
            return there
    return []


def _sentences(split: str, path: Path, root: Path, folders: list[Path], options: Options) -> Iterator[Posed]:
    seen: dict[str, str] = {}
    for row in read_json_lines(path, path.relative_to(root).as_posix()):
        try:
            row.check()
            refuse_again(seen, row.text("identifier"), row, f"identifier {row.data['identifier']!r}")
            yield _pose(row, folders, options)
        except SourceError as error:
            yield faulty(split, row.place, Fault.of(error))


def _pose(row: Row, folders: list[Path], options: Options) -> Posed:
    identifier = row.text("identifier")
    parts = IDENTIFIER.fullmatch(identifier)
    if parts is None:
        raise row.wrong("identifier", "split-set-pair-sentence, such as 'dev-850-0-1'")
    label = row.data.get("label")
    if label is not None and (not isinstance(label, str) or label not in ANSWERS):
        raise SourceError("unknown-label", f"label {label!r:.40}, not 'True' or 'False'", where=row.place)
    split = FILES[parts["split"]]  # which a file of any name holds
    pair = identifier.rpartition("-")[0]
    paths = _pictures(pair, parts["split"], row, folders)
    templates = options.prompt or NLVR2
    number = choose(templates, identifier, options.seed)
    metadata = {"identifier": identifier, "group": parts["set"], "sentence": row.text("sentence"), "label": label}
    urls = {key: row.data[key] for key in ("left_url", "right_url", "synset", "directory") if key in row.data}
    caption = fill(templates[number], {"caption": row.text("sentence")})
    turn = Turn(user=caption, assistant=None if label is None else ANSWERS[label])
    check_answered(split, [turn], row.place)
    return Posed(
        split=split,
        source=row.place,
        files=paths,
        turns=(turn,),
        pictures=tuple(Picked(path.stem, path) for path in paths),
        label=turn.assistant,
        metadata=metadata | urls | ({"prompt": number} if len(templates) > 1 else {}),
    )


def _pictures(pair: str, split: str, row: Row, folders: list[Path]) -> tuple[Path, ...]:
    """Return the two pictures of a pair; what is missing is named, be it one or both."""
    names = [f"{pair}-img{side}.png" for side in (0, 1)]
    below = [f"{split}/{row.data['directory']}", split, ""] if "directory" in row.data else [split, ""]
    found = [
        next((path for folder in folders for inner in below if (path := folder / inner / name).is_file()), None)
        for name in names
    ]
    if absent := [name for name, path in zip(names, found, strict=True) if path is None]:
        fix = f"put them into {folders[0] / below[0] if folders else 'images/'}, or give --image_dir"
        raise SourceError("missing-image", f"not there: {', '.join(absent)}", where=row.place, fix=fix)
    return tuple(path for path in found if path)


def _pairs(sentences: Iterator[Posed]) -> Iterator[Posed]:
    """Yield a record a pair, at the place of its first sentence; what has a fault or no answer stays alone."""
    groups: dict[tuple[str, str], list[Posed]] = defaultdict(list)
    for posed in sentences:
        alone = posed.fault or posed.turns[0].assistant is None
        groups[posed.split, posed.source if alone else posed.pictures[0].name].append(posed)
    for group in groups.values():
        yield group[0] if len(group) == 1 else joined(group, ("identifier", "sentence", "label", "prompt"))


def _of_example(example: Example, options: Options) -> Iterator[Posed]:
    """Yield the records of a row of the_cauldron; of a row that it scores the recipe reads the first text alone."""
    split = recipe_split(example.number) if options.recipe_splits else "train"
    if example.row.fault:
        yield faulty(split, example.row.place, example.row.fault)
        return
    texts = example.texts[:1] if options.recipe_splits and split == "val" else example.texts
    posed = [_of_text(split, example, number) for number in range(len(texts))]
    if options.turns == "pair" and not any(one.fault for one in posed):
        yield replace(posed[0], source=example.row.place, turns=tuple(one.turns[0] for one in posed))
    else:
        yield from posed


def _of_text(split: str, example: Example, number: int) -> Posed:
    text, place = example.texts[number], f"{example.row.place}.texts[{number}]"
    if text.assistant not in ANSWERS.values():
        return faulty(split, place, Fault("unknown-label", f"answer {text.assistant!r:.40}, not 'Yes.' or 'No.'"))
    turn = Turn(user=text.user, assistant=text.assistant)
    return Posed(split=split, source=place, turns=(turn,), pictures=example.pictures, label=text.assistant)
