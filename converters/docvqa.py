"""DocVQA (RRC challenge 17, task 1): 50,000 questions on 12,767 scanned pages, read and answered in a few words.

Source:  https://rrc.cvc.uab.es/?ch=17, after registration: 39,463 questions for training, 5,349 for validation, 5,188
         for the test. Without a --src_dir what the original recipe trained on is fetched from the hub:
         nielsr/docvqa_1200_examples (1,000 + 200 questions), or with --from full the docvqa part of
         HuggingFaceM4/the_cauldron for training, which the same 200 questions evaluate.
Licence: terms of the challenge, for research; pages from UCSF Industry Documents.
Layouts: {train,val}_v1.0[_withQT].json and test_v1.0.json, in a folder or in spdocvqa_qas/, or one JSON file of them,
         a bare list of questions included; pages in documents/, spdocvqa_images/ or beside, with or without the
         `documents/` that the annotations put before their names. Or the hub's Parquet files: lmms-lab/DocVQA,
         HuggingFaceM4/DocumentVQA, nielsr/docvqa_1200_examples, HuggingFaceM4/the_cauldron.
Turns:   one; the page, the question and `Answer briefly.`; the first accepted answer, all of them in `answers`. With
         --turns page the labelled questions of a page are the turns of one record, and the page stands in it once.
Splits:  as published. The official test has no answers: its records can be predicted, not scored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from phi3v.converters.annotations import Fault, refuse_again
from phi3v.converters.base import SourceError
from phi3v.converters.docvqa_forms import Question, Questions, find_questions
from phi3v.converters.pictured import Picked
from phi3v.converters.posed import Posed, answered, check_answered, faulty, joined, render
from phi3v.converters.prompts import check_templates, choose, fill
from phi3v.converters.recipe import CAULDRON, NIELSR, Part, comparison, fetch_parts, fetched_parts, where_to_apply
from phi3v.converters.recipe_prompts import AS_GIVEN, DOCVQA
from phi3v.schema import UserError

__all__ = ["MODULES", "SUMMARY", "Options", "fetch", "plan", "remarks", "render"]

SUMMARY = "DocVQA: questions on scanned pages, with every accepted answer"
MODULES = ("pyarrow",)
FIELDS = ("question",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `phi3v-data convert docvqa` takes."""

    src_dir: Annotated[Path | None, "The unpacked data, or one annotation file. [default: fetch, see --from]"] = None
    from_: Annotated[
        Literal["mini", "full", "official"],
        "What to fetch: 1,000 + 200 questions of the recipe; the_cauldron's docvqa + those 200; nothing, but say how.",
    ] = "mini"
    recipe_splits: Annotated[bool, "The 200 questions that the recipe scores are val, not test as published."] = False
    image_dir: Annotated[Path | None, "Where the pages are. [default: documents/ or spdocvqa_images/ below]"] = None
    turns: Annotated[Literal["question", "page"], "One record a question, or a page with its questions as turns."] = (
        "question"
    )
    prompt: Annotated[tuple[str, ...], "Template with {question}; one of several is drawn for each question."] = ()
    seed: Annotated[int, "Of that draw."] = 0


def plan(options: Options) -> Iterable[Posed]:
    """Return the items, split by split, in the order of the files; rows of Parquet one by one."""
    check_templates("--prompt", options.prompt, FIELDS)
    assert options.src_dir is not None, "fetched before the plan"
    if not options.src_dir.exists():
        raise UserError("no such folder", where=options.src_dir, fix="point --src_dir at the unpacked DocVQA")
    if options.recipe_splits and not fetched_parts(options.src_dir):
        raise UserError("--recipe_splits is about what is fetched", fix="leave --src_dir or --recipe_splits out")
    questions, streamed = find_questions(options.src_dir, options.image_dir)
    if options.turns == "page":
        items = _pages(questions, options)
    else:
        items = (posed for _, posed in _posed(questions, options, pictures=True))
    return items if streamed else list(items)


def fetch(options: Options, folder: Path) -> Options:
    """Fetch what the recipe trained on."""
    if options.from_ == "official":
        where = "register at https://rrc.cvc.uab.es/?ch=17, download task 1 (SP-DocVQA), unpack it"
        raise where_to_apply("docvqa", where, "THAT_FOLDER")
    scored = Part(NIELSR, "*test-*.parquet", "val" if options.recipe_splits else "test")
    mini = Part(NIELSR, "*train-*.parquet", "train")
    fetch_parts([mini if options.from_ == "mini" else Part(CAULDRON, "docvqa/*.parquet", "train"), scored], folder)
    return replace(options, src_dir=folder)


def remarks(options: Options, content: Mapping[str, Any]) -> dict[str, Any]:
    """Say in the manifest what was fetched, and whether it equals the recipe's data."""
    assert options.src_dir is not None, "fetched before"
    differs = {
        "--recipe_splits was not given": not options.recipe_splits,
        "--prompt was given": bool(options.prompt),
        "a page's questions are turns, of which the recipe draws one at a time": options.turns == "page",
    }
    counts = {"train": 1000, "val": 200} if options.from_ == "mini" else None
    return comparison(options.src_dir, content, differs, counts)


def _posed(questions: Questions, options: Options, *, pictures: bool) -> Iterator[tuple[Question, Posed]]:
    """Yield an item a question; a question id that comes again in its split is a fault."""
    seen: dict[tuple[str, str], str] = {}
    for question in questions(pictures=pictures):
        templates = options.prompt or (AS_GIVEN if question.prompted else DOCVQA)
        try:
            if (number := question.row.data.get("questionId")) is not None:
                refuse_again(seen, (question.split, str(number)), question.row, f"question id {number!r}")
            yield question, _pose(question, templates, options.seed)
        except SourceError as error:
            yield question, faulty(question.split, question.row.place, Fault.of(error))


def _pose(question: Question, templates: tuple[str, ...], seed: int) -> Posed:
    row = question.row
    row.check()
    number = choose(templates, str(row.data.get("questionId", row.place)), seed)
    metadata = {
        "question_id": row.data.get("questionId"),
        "question_types": list(row.texts("question_types")),
        "doc_id": row.data.get("docId"),
        "page": row.data.get("ucsf_document_page_no"),
        "group": row.data.get("ucsf_document_id"),  # pages of one document must not lie on both sides
        "prompt": number if len(templates) > 1 else None,
    }
    picture = question.picture
    turn = answered(fill(templates[number], {"question": row.text("question")}), row.texts("answers"))
    check_answered(question.split, [turn], row.place)
    return Posed(
        split=question.split,
        source=row.place,
        files=(picture,) if isinstance(picture, Path) else (),
        turns=(turn,),
        pictures=(Picked(question.name, picture, None if isinstance(picture, Path) else row.place),) if picture else (),
        metadata={key: value for key, value in metadata.items() if value not in (None, [])},
    )


def _pages(questions: Questions, options: Options) -> Iterator[Posed]:
    """Yield a record a page, at the place of its first question; a question without an answer stays alone."""
    pages: dict[tuple[str, str], list[Posed]] = defaultdict(list)
    # Texts alone at first: a page's questions may lie anywhere, and its picture is wanted once.
    for question, posed in _posed(questions, options, pictures=False):
        if _joins(posed, question):
            pages[posed.split, str(question.page)].append(posed)
    for question, posed in _posed(questions, options, pictures=True):
        if not _joins(posed, question):
            yield posed
        elif page := pages.pop((posed.split, str(question.page)), None):
            # The first of them again, which now has the picture.
            yield joined([posed, *page[1:]], ("question_id", "question_types", "prompt"))


def _joins(posed: Posed, question: Question) -> bool:
    return question.page is not None and not posed.fault and posed.turns[0].assistant is not None
