"""The forms in which DocVQA is published, each turned into the official fields.

JSON: an object with `data`, or a bare list. Parquet: lmms-lab/DocVQA and HuggingFaceM4/DocumentVQA have the official
fields and the page's bytes; nielsr/docvqa_1200_examples has the question in five languages; the_cauldron has a page
with all its questions, prompts included.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from phi3v.converters.annotations import Fault, Row, read_document
from phi3v.converters.base import SPLITS, SourceError
from phi3v.converters.images import safe_name
from phi3v.converters.parquet import columns_of, parquet_files, read_parquet
from phi3v.converters.pictured import find_picture, image_bytes, image_folders, name_of
from phi3v.converters.splits import SPLIT_OF, split_of
from phi3v.schema import UserError

QUESTION_FOLDERS = ("", "spdocvqa_qas", "qas")
PAGE_FOLDERS = ("", "spdocvqa_images", "images", "documents")
ANNOTATION = re.compile(r"(?:^|[_.-])(?:train|val|test)[_.-].*json$")
NO_IMAGE = Fault("no-image", "this row holds no picture", "fetch the file again, or remove the row")


class Question(NamedTuple):
    """A question in the official fields, and the page it is on.

    Attributes:
        split: where it belongs.
        row: official fields; `answers` is absent where they are secret.
        page: what the questions of one page share; None if that is not known.
        name: of the page's picture, below its split.
        picture: a file, its bytes, or None while only texts are read.
        prompted: whether the question holds its prompt already.
    """

    split: str
    row: Row
    page: str | None
    name: str
    picture: Path | bytes | None
    prompted: bool = False


Questions = Callable[..., Iterator[Question]]


class Found(NamedTuple):
    """What reads a source.

    Attributes:
        questions: takes `pictures=`, whether to read more than texts, and may be called again.
        streamed: whether its pictures are bytes, of which few fit into memory.
    """

    questions: Questions
    streamed: bool


def find_questions(src_dir: Path, image_dir: Path | None) -> Found:
    """Return what reads the data below `src_dir`, which may also be one annotation file.

    Raises:
        UserError: there is none that is known.
    """
    if documents := _documents(src_dir):
        root = src_dir if src_dir.is_dir() else src_dir.parent
        folders = image_folders(root, image_dir, PAGE_FOLDERS)
        return Found(partial(_from_json, documents, root, folders), streamed=False)
    files = parquet_files(src_dir)
    if not files:
        fix = "point --src_dir at the folder with train_v1.0.json or train_v1.0_withQT.json, or with Parquet files"
        raise UserError("no annotations of DocVQA here", where=src_dir, fix=fix)
    return Found(partial(_from_parquet, files, src_dir if src_dir.is_dir() else src_dir.parent), streamed=True)


# ---------------------------------------------------------------------------------------------------------------- JSON


def _documents(src_dir: Path) -> list[Path]:
    """Return the annotation files in order of split, the one with question types of two that differ in that."""
    if src_dir.is_file():
        return [src_dir] if src_dir.suffix == ".json" else []
    for name in QUESTION_FOLDERS:
        found = sorted(path for path in (src_dir / name).glob("*.json") if ANNOTATION.search(path.name))
        typed = {path.name for path in found}
        kept = [path for path in found if path.name.replace(".json", "_withQT.json") not in typed]
        if kept:
            return sorted(kept, key=lambda path: (SPLITS.index(split_of(path.name) or "train"), path.name))
    return []


def _from_json(
    documents: list[Path],
    root: Path,
    folders: list[Path],
    *,
    pictures: bool,  # noqa: ARG001  # files are no bytes yet
) -> Iterator[Question]:
    for path in documents:
        document = read_document(path, path.relative_to(root).as_posix())
        told = split_of(path.name) or SPLIT_OF.get(str(document.head.get("dataset_split")))
        for row in document.rows:
            split = told or SPLIT_OF.get(str(row.data.get("data_split")))
            if split is None:
                what = f"neither the file's name nor 'data_split' of {row.place} tells a split"
                raise UserError(what, where=path, fix="rename it, such as to train.json")
            yield _on_page(split, row, folders)


def _on_page(split: str, row: Row, folders: list[Path]) -> Question:
    try:
        row.check()
        image = row.text("image")
        path = find_picture(image, folders, where=row.place)
    except SourceError as error:
        return Question(split, row.with_fault(error), None, "", None)
    return Question(split, row, image, name_of(PurePosixPath(PurePosixPath(image).name)), path)


# ------------------------------------------------------------------------------------------------------------- Parquet


def _kind(path: Path) -> str:
    columns = set(columns_of(path))
    for kind, needed in (("cauldron", {"images", "texts"}), ("nielsr", {"image", "query", "answers"})):
        if needed <= columns:
            return kind
    if {"image", "question"} <= columns:
        return "official"
    what = f"a form that is not known, with the columns {', '.join(sorted(columns))}"
    raise UserError(what, where=path, fix="phi3v-data convert table --help converts any columns")


def _from_parquet(files: list[Path], root: Path, *, pictures: bool) -> Iterator[Question]:
    told = [(split_of(path.relative_to(root).as_posix()), path) for path in files]
    if unknown := [path for split, path in told if split is None]:
        raise UserError("no split in this file's name", where=unknown[0], fix="rename it, such as to train.parquet")
    numbers: Counter[str] = Counter()
    for split, path in sorted(told, key=lambda one: (SPLITS.index(str(one[0])), one[1])):
        kind = _kind(path)
        columns = None if pictures else [one for one in columns_of(path) if one not in {"image", "images"}]
        for whole in read_parquet(path, path.relative_to(root).as_posix(), columns):
            number = numbers[str(split)]
            numbers[str(split)] += 1
            picture = image_bytes(_cell(whole.data)) if pictures else None
            fault = NO_IMAGE if pictures and picture is None else None
            for row in _ROWS[kind](whole):
                page, name = _page(whole, row, number)
                faulty = Row(row.place, row.data, row.fault or fault)
                yield Question(str(split), faulty, page, name, picture, prompted=kind == "cauldron")


def _cell(data: dict[str, Any]) -> Any:
    """Return the page's cell; the_cauldron has a list of one."""
    images = data.get("images", data.get("image"))
    return next(iter(images), None) if isinstance(images, list) else images


def _page(whole: Row, row: Row, number: int) -> tuple[str | None, str]:
    document, page = row.data.get("ucsf_document_id"), row.data.get("ucsf_document_page_no")
    if document and page:
        return f"{document}_{page}", safe_name(f"{document}_{page}")
    shared = whole.place if "texts" in whole.data else None
    return shared, f"{number:06d}"


def _official(row: Row) -> Iterator[Row]:
    kept = {key: value for key, value in row.data.items() if key != "image"}
    if "questionId" not in kept and "question_id" in kept:
        kept["questionId"] = kept.pop("question_id")
    yield Row(row.place, kept, row.fault)


def _nielsr(row: Row) -> Iterator[Row]:
    query = row.data.get("query")
    question = query.get("en") if isinstance(query, dict) else query
    data = {"questionId": row.data.get("id"), "question": question, "answers": row.data.get("answers")}
    yield Row(row.place, data, row.fault)


def _cauldron(row: Row) -> Iterator[Row]:
    texts = row.data.get("texts")
    if not isinstance(texts, list) or not texts:
        yield row.with_fault(row.wrong("texts", "a list of questions and answers"))
        return
    for number, text in enumerate(texts):
        asked = text if isinstance(text, dict) else {}
        answer = asked.get("assistant")
        data = {"question": asked.get("user"), "answers": [answer] if answer is not None else None}
        yield Row(f"{row.place}.texts[{number}]", data, row.fault)


_ROWS = {"official": _official, "nielsr": _nielsr, "cauldron": _cauldron}
