"""Tables: the same questions as CSV, TSV, JSON lines and Parquet; pictures, lists, conversations, splits, mistakes."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import math
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from phi3v.converters import table
from phi3v.converters.table import Options
from phi3v.schema import UserError

ROWS = [
    {"question": "What, exactly?", "answer": 'a "cup"', "picture": "a/1.png", "kind": "cup"},
    {"question": "Where?\nSay!", "answer": "007", "picture": "b/1.png", "kind": "place"},
]


def options(path: Path, **more: Any) -> Options:
    """The mapping of the rows above."""
    given = {"user": ("Q: {question}",), "assistant": "answer", "image": ("picture",), "split_column": None, **more}
    return Options(src_dir=path, **given)


@pytest.fixture
def pictures(tmp_path: Path, picture: Callable[..., bytes]) -> Path:
    for number, name in enumerate(("a/1.png", "b/1.png", "a/2.png"), 1):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(picture(number))
    return tmp_path


def write_delimited(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def write(write_lines: Callable[..., Path], write_parquet: Callable[..., Path]) -> Callable[..., Path]:
    """Write rows as the suffix says."""

    def write(path: Path, rows: list[dict[str, Any]]) -> Path:
        match path.suffix:
            case ".parquet":
                return write_parquet(path, rows)
            case ".jsonl":
                return write_lines(path, *rows)
            case ".json":
                path.write_text(json.dumps(rows))
                return path
        return write_delimited(path, rows)

    return write


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_every_kind_of_table_gives_the_same_records(
    pictures: Path, write: Callable[..., Path], converted: Callable[..., Any], suffix: str
) -> None:
    path = write(pictures / f"train{suffix}", ROWS)

    done = converted("table", options(path, label="kind", metadata=("answer",)))

    assert done.records["train"] == [
        {
            "id": "train-0000000000",
            "source": "table",
            "conversations": [
                {"images": ["train/a/1.png"], "user": "Q: What, exactly?", "assistant": 'a "cup"'},
            ],
            "metadata": {"answer": 'a "cup"', "kind": "cup"},
        },
        {
            "id": "train-0000000001",
            "source": "table",
            "conversations": [{"images": ["train/b/1.png"], "user": "Q: Where?\nSay!", "assistant": "007"}],
            "metadata": {"answer": "007", "kind": "place"},
        },
    ]
    assert done.manifest["classes"] == {"train": {"cup": 1, "place": 1}}
    assert (done.folder / "images/train/b/1.png").read_bytes() == (pictures / "b/1.png").read_bytes()


# ----------------------------------------------------------------------------------------------------------- cells


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (3, "3"),
        (3.0, "3"),
        (-0.5, "-0.5"),
        (1e300, "1e+300"),
        (0.1 + 0.2, "0.30000000000000004"),
        (True, "true"),
        ("007", "007"),
        ("NaN", "NaN"),
        (dt.date(2024, 2, 29), "2024-02-29"),
        (["a", "ö"], '["a","ö"]'),
    ],
)
def test_a_number_or_date_becomes_the_text_that_it_is(
    tmp_path: Path, write_parquet: Callable[..., Path], converted: Callable[..., Any], cell: Any, text: str
) -> None:
    path = write_parquet(tmp_path / "train.parquet", [{"question": "What?", "answer": cell}])

    assert converted("table", options(path, image=())).turns("train") == [("Q: What?", text)]


@pytest.mark.parametrize("cell", [None, math.nan, "", "  "])
def test_an_empty_answer_costs_its_row_unless_it_is_a_tests(
    tmp_path: Path, write_parquet: Callable[..., Path], converted: Callable[..., Any], cell: Any
) -> None:
    rows = [{"question": "What?", "answer": cell, "where": split} for split in ("train", "test")]
    path = write_parquet(tmp_path / "mine.parquet", rows)

    done = converted("table", options(path, image=(), split_column="where"), on_error="skip")

    assert done.turns("test") == [("Q: What?", None)]
    assert [reason for reason, _ in done.rejected] == ["no-answer"]
    assert done.rejected[0][1].startswith("mine.parquet:row 0: no answer")


def test_a_template_with_nothing_to_fill_in_asks_nothing(tmp_path: Path, converted: Callable[..., Any]) -> None:
    rows = [{"question": question, "hint": hint, "answer": "y"} for question, hint in (("", ""), ("a?", ""), ("", "b"))]
    path = write_delimited(tmp_path / "train.csv", rows)

    done = converted("table", options(path, user=("Q: {question} ({hint})",), image=()), on_error="skip")

    assert done.turns("train") == [("Q: a? ()", "y"), ("Q:  (b)", "y")]
    assert [reason for reason, _ in done.rejected] == ["no-question"]


def test_metadata_are_json_or_the_row_is_refused(
    tmp_path: Path, write_parquet: Callable[..., Path], converted: Callable[..., Any]
) -> None:
    row = {"question": "What?", "answer": "y", "day": dt.date(2024, 2, 29), "list": [1.0, math.nan], "raw": b"x"}
    path = write_parquet(tmp_path / "train.parquet", [row])

    kept = converted("table", options(path, image=(), metadata=("day", "list")))
    refused = converted("table", options(path, image=(), metadata=("raw",)), on_error="skip")

    assert kept.records["train"][0]["metadata"] == {"day": "2024-02-29", "list": [1.0, None]}
    assert "'raw' cannot be kept in metadata" in refused.rejected[0][1]


def test_whole_numbers_beside_gaps_are_no_fractions(
    tmp_path: Path, write_parquet: Callable[..., Path], converted: Callable[..., Any]
) -> None:
    """As pandas stores them: 3 and NaN are 3.0 and NaN."""
    rows = [{"question": f"{n}?", "answer": answer} for n, answer in enumerate((3.0, math.nan, 4.0))]

    done = converted("table", options(write_parquet(tmp_path / "train.parquet", rows), image=()), on_error="skip")

    assert [answer for _, answer in done.turns("train")] == ["3", "4"]


@pytest.mark.parametrize(
    ("cell", "separator", "answers"),
    [
        ('["so", "thus"]', None, ["so", "thus"]),
        ("so; thus", ";", ["so", "thus"]),
        ("so; thus", None, ["so; thus"]),
        ('["so", "so", ""]', None, ["so"]),
        ("[1, 2.0]", None, ["1", "2"]),
    ],
)
def test_a_list_in_a_cell(
    tmp_path: Path, converted: Callable[..., Any], cell: str, separator: str | None, answers: list[str]
) -> None:
    path = write_delimited(tmp_path / "train.csv", [{"question": "What?", "answer": cell}])

    done = converted("table", options(path, assistant=None, answers="answer", image=(), separator=separator))

    (turn,) = done.records["train"][0]["conversations"]
    assert turn["answers"] == answers
    assert turn["assistant"] == answers[0]


def test_a_python_list_in_a_cell_is_refused_not_evaluated(tmp_path: Path, converted: Callable[..., Any]) -> None:
    rows = [{"question": "What?", "answer": cell} for cell in ("['a', 'b']", "[__import__('os').getcwd()]")]
    path = write_delimited(tmp_path / "train.csv", [*rows, {"question": "Good?", "answer": "yes"}])

    done = converted("table", options(path, assistant=None, answers="answer", image=()), on_error="skip")

    assert done.turns("train") == [("Q: Good?", "yes")]
    assert [reason for reason, _ in done.rejected] == ["wrong-field"] * 2
    assert "train.csv:2: 'answer' begins like a JSON list and is none: \"['a', 'b']\"" in done.rejected[0][1]
    assert 'write ["a", "b"], with double quotes' in done.rejected[0][1]


# -------------------------------------------------------------------------------------------------------- pictures


def test_pictures_as_bytes_structs_paths_and_lists_of_them(
    pictures: Path, picture: Callable[..., bytes], write_parquet: Callable[..., Path], converted: Callable[..., Any]
) -> None:
    rows = [
        {
            "question": "What?",
            "answer": "this",
            "raw": picture(7),
            "struct": {"bytes": picture(8, form="JPEG"), "path": "x.png"},
            "path": {"bytes": None, "path": "a/1.png"},
            "several": ["b/1.png", "a/2.png"],
        }
    ]
    path = write_parquet(pictures / "train.parquet", rows)

    done = converted("table", options(path, image=("raw", "struct", "path", "several")))

    names = done.records["train"][0]["conversations"][0]["images"]
    assert names == [
        "train/train-000000-0.png",
        "train/train-000000-1.jpg",
        "train/a/1.png",
        "train/b/1.png",
        "train/a/2.png",
    ]
    contents = [(done.folder / "images" / name).read_bytes() for name in names]
    assert contents == [picture(7), picture(8, form="JPEG"), picture(1), picture(2), picture(3)]


def test_an_image_column_may_be_empty(pictures: Path, converted: Callable[..., Any]) -> None:
    rows = [{"question": "One?", "answer": "y", "left": "a/1.png", "right": ""}]

    done = converted("table", options(write_delimited(pictures / "train.csv", rows), image=("left", "right")))

    assert done.records["train"][0]["conversations"][0]["images"] == ["train/a/1.png"]


def test_paths_that_lead_out_of_the_folder_are_refused(
    pictures: Path, converted: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory, picture: Any
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "1.png"
    outside.write_bytes(picture(1))
    names = [str(outside), "../1.png", "a/../../1.png", "gone.png", str(pictures / "a/1.png")]
    rows = [{"question": f"{n}?", "answer": "y", "picture": name} for n, name in enumerate(names)]
    path = write_delimited(pictures / "train.csv", rows)

    done = converted("table", options(path), on_error="skip")
    wider = converted("table", options(path, image_dir=Path("/")), on_error="skip")

    assert [reason for reason, _ in done.rejected] == ["unsafe-path"] * 3 + ["missing-image"]
    assert done.turns("train") == [("Q: 4?", "y")], "an absolute path below the folder is as good"
    assert "give the folder above it as --image_dir" in done.rejected[0][1]
    assert [user for user, _ in wider.turns("train")] == ["Q: 0?", "Q: 4?"]


class Site(BaseHTTPRequestHandler):
    """One picture."""

    content = b""
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200 if self.path == "/cup.png?big=1" else 404)
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_: Any) -> None:
        pass


def test_addresses_are_refused_unless_allowed(
    tmp_path: Path, serve: Callable[..., str], picture: Callable[..., bytes], converted: Callable[..., Any]
) -> None:
    Site.content, Site.asked = picture(4), []
    site = serve(Site)
    names = [f"{site}/cup.png?big=1", f"{site}/gone.png", "file:///etc/passwd", "data:image/png;base64,AAAA"]
    rows = [{"question": f"{n}?", "answer": "y", "picture": name} for n, name in enumerate(names)]
    path = write_delimited(tmp_path / "train.csv", rows)

    refused = converted("table", options(path), on_error="skip")
    assert [reason for reason, _ in refused.rejected] == ["address"] * 4
    assert "give --allow_download" in refused.rejected[0][1]
    assert Site.asked == []

    allowed = converted("table", options(path, allow_download=True), on_error="skip")
    (record,) = allowed.records["train"]
    (name,) = record["conversations"][0]["images"]
    assert (allowed.folder / "images" / name).read_bytes() == picture(4)
    assert [reason for reason, _ in allowed.rejected] == ["not-fetched", "address", "address"]


# --------------------------------------------------------------------------------------------------- conversations


@pytest.mark.parametrize(
    "turns",
    [
        [{"user": "<image>One?", "assistant": "1"}, {"user": "Two?", "assistant": "2"}],
        [
            {"from": "human", "value": "<image>One?"},
            {"from": "gpt", "value": "1"},
            {"from": "human", "value": "Two?"},
            {"from": "gpt", "value": "2"},
        ],
        [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "<image>One?"},
            {"role": "assistant", "content": "1"},
            {"role": "user", "content": "Two?"},
            {"role": "assistant", "content": "2"},
        ],
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_column_of_whole_conversations(
    pictures: Path, write: Callable[..., Path], converted: Callable[..., Any], turns: list[Any], suffix: str
) -> None:
    cell = json.dumps(turns) if suffix == ".csv" else turns
    path = write(pictures / f"train{suffix}", [{"talk": cell, "picture": "a/1.png"}])

    done = converted("table", Options(src_dir=path, turns="talk", image=("picture",)))

    (record,) = done.records["train"]
    assert done.turns("train") == [("<|image_1|>One?", "1"), ("Two?", "2")]
    assert record["conversations"][0]["images"] == ["train/a/1.png"]
    assert record.get("system") == ("Be short." if turns[0].get("role") == "system" else None)


@pytest.mark.parametrize(
    ("turns", "what"),
    [
        ([{"from": "gpt", "value": "1"}], "no alternation of user and assistant: assistant"),
        ([{"from": "robot", "value": "1"}], "a turn that is not known"),
        (["One?"], "a turn that is not known"),
        ([{"user": "<image><image>?", "assistant": "1"}], "2 <image> for 1 pictures"),
        ([{"user": "", "assistant": "1"}], "an empty turn"),
        ([], "no alternation of user and assistant: nothing"),
    ],
)
def test_a_conversation_that_is_none(
    pictures: Path, write_lines: Callable[..., Path], converted: Callable[..., Any], turns: list[Any], what: str
) -> None:
    good = {"talk": [{"user": "One?", "assistant": "1"}], "picture": "a/1.png"}
    path = write_lines(pictures / "train.jsonl", good, {"talk": turns, "picture": "a/1.png"})

    done = converted("table", Options(src_dir=path, turns="talk", image=("picture",)), on_error="skip")

    assert len(done.records["train"]) == 1
    ((_, message),) = done.rejected
    assert message.startswith("train.jsonl:2: ")
    assert what in message


def test_neighbouring_rows_that_share_a_value_are_turns(pictures: Path, converted: Callable[..., Any]) -> None:
    rows = [
        {"question": question, "answer": "y", "picture": name, "talk": talk}
        for question, name, talk in (
            ("1?", "a/1.png", "x"),
            ("2?", "a/1.png", "x"),
            ("3?", "a/2.png", "x"),
            ("4?", "b/1.png", "y"),
            ("5?", "b/1.png", "x"),
            ("6?", "b/1.png", ""),
            ("7?", "b/1.png", ""),
        )
    ]

    done = converted(
        "table", options(write_delimited(pictures / "train.csv", rows), conversation="talk"), on_error="skip"
    )

    shown = [
        [(turn["user"], turn.get("images")) for turn in record["conversations"]] for record in done.records["train"]
    ]
    assert shown == [
        [("Q: 1?", ["train/a/1.png"]), ("Q: 2?", None), ("Q: 3?", ["train/a/2.png"])],
        [("Q: 4?", ["train/b/1.png"])],
        [("Q: 6?", ["train/b/1.png"])],
        [("Q: 7?", ["train/b/1.png"])],
    ]
    ((reason, message),) = done.rejected
    assert reason == "scattered"
    assert message.startswith("train.csv:6: talk 'x' was at train.csv:2 already, and other rows lie between")


def test_of_the_pictures_of_several_columns_each_is_shown_once(pictures: Path, converted: Callable[..., Any]) -> None:
    rows = [
        {"question": "1?", "answer": "y", "left": "a/1.png", "right": "b/1.png", "talk": "x"},
        {"question": "2?", "answer": "y", "left": "a/1.png", "right": "b/1.png", "talk": "x"},
        {"question": "3?", "answer": "y", "left": "a/2.png", "right": "a/2.png", "talk": "x"},
    ]
    path = write_delimited(pictures / "train.csv", rows)

    done = converted("table", options(path, image=("left", "right"), conversation="talk"))

    (record,) = done.records["train"]
    shown = [[pictures_of(done, name) for name in turn.get("images", [])] for turn in record["conversations"]]
    assert shown == [[pixels(pictures, "a/1.png"), pixels(pictures, "b/1.png")], [], [pixels(pictures, "a/2.png")] * 2]


def pictures_of(done: Any, name: str) -> bytes:
    return (done.folder / "images" / name).read_bytes()


def pixels(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()


def test_a_cell_that_no_file_can_be_called_costs_its_row(
    tmp_path: Path, write_lines: Callable[..., Path], converted: Callable[..., Any]
) -> None:
    path = write_lines(tmp_path / "test.jsonl", {**ROWS[0], "picture": "iVBOR" * 2000})

    done = converted("table", options(path), on_error="skip")

    ((reason, message),) = done.rejected
    assert reason == "missing-image"
    assert len(message) < 500


# ---------------------------------------------------------------------------------------------------------- splits


def test_a_row_that_is_mended_is_gone_on_with_in_its_split(pictures: Path, converted: Callable[..., Any]) -> None:
    rows = [{"question": f"{n}?", "answer": "y", "picture": f"gone/{n}.png"} for n in range(20)]
    path = write_delimited(pictures / "data.csv", rows)

    done = converted("table", options(path, val_fraction=0.5), on_error="skip")
    lost = [json.loads(line)["id"] for line in (done.folder / "rejected.jsonl").read_text().splitlines()]
    for number in range(20):
        (pictures / "gone").mkdir(exist_ok=True)
        (pictures / f"gone/{number}.png").write_bytes((pictures / "a/1.png").read_bytes())
    whole = converted("table", options(path, val_fraction=0.5))

    assert sorted(lost) == sorted(record["id"] for split in ("train", "val") for record in whole.records[split])


def test_splits_by_file_column_and_hash(pictures: Path, converted: Callable[..., Any]) -> None:
    (pictures / "tables").mkdir()
    for name in ("train", "my_validation", "test"):
        write_delimited(pictures / f"tables/{name}.csv", [ROWS[0]])
    by_file = converted("table", options(pictures / "tables", image_dir=pictures))
    assert {split: len(records) for split, records in by_file.records.items()} == {"train": 1, "val": 1, "test": 1}

    rows = [{**ROWS[0], "part": part} for part in ("train", "Validation", "dev", "test", "holdout")]
    by_column = converted(
        "table", options(write_delimited(pictures / "all.csv", rows), split_column="part"), on_error="skip"
    )
    assert {split: len(records) for split, records in by_column.records.items()} == {"train": 1, "val": 2, "test": 1}
    assert by_column.rejected[0][0] == "unknown-split"


def test_a_split_by_hash_keeps_groups_together_and_moves_nothing_when_rows_come(
    tmp_path: Path, converted: Callable[..., Any]
) -> None:
    rows = [{"question": f"{n}?", "answer": "y", "who": f"person {n // 4}"} for n in range(400)]
    wish: dict[str, Any] = {"image": (), "group": "who", "val_fraction": 0.2, "test_fraction": 0.1}

    fewer = converted("table", options(write_delimited(tmp_path / "t.csv", rows[40:]), **wish))
    done = converted("table", options(write_delimited(tmp_path / "t.csv", rows), **wish))

    def split_of(result: Any) -> dict[str, str]:
        return {r["conversations"][0]["user"]: split for split, found in result.records.items() for r in found}

    groups: dict[str, set[str]] = {}
    for split, found in done.records.items():
        for record in found:
            groups.setdefault(record["metadata"]["group"], set()).add(split)
    assert all(len(splits) == 1 for splits in groups.values())
    assert split_of(fewer).items() <= split_of(done).items()
    shares = {split: len(records) / 400 for split, records in done.records.items()}
    assert shares == pytest.approx({"train": 0.7, "val": 0.2, "test": 0.1}, abs=0.1)


# -------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("wish", "what", "hint"),
    [
        ({"user": ("Q: {qestion}",)}, "--user names {qestion}", "did you mean 'question'?"),
        ({"user": ("Question",)}, "--user names column 'Question'", "did you mean 'question'?"),
        ({"assistant": "answr"}, "--assistant names column 'answr'", "did you mean 'answer'?"),
        ({"image": ("img",)}, "--image names column 'img'", "There are: answer, kind, picture, question"),
        ({"group": "x"}, "--group names column 'x'", "There are: answer, kind, picture, question"),
        ({"split_column": "kinds"}, "--split_column names column 'kinds'", "did you mean 'kind'?"),
        ({"user": ()}, "no column of questions", "there are: question, answer, picture, kind"),
        ({"turns": "kind"}, "--user and --turns exclude each other", ""),
        ({"user": (), "turns": "kind"}, "--assistant has no place beside it", "leave one of them out"),
        (
            {"user": (), "turns": "kind", "assistant": None, "conversation": "answer"},
            "--conversation has no place beside it",
            "leave one of them out",
        ),
        ({"encoding": "nosuch"}, "unknown encoding: nosuch", "--encoding"),
        ({"delimiter": "ab"}, "1-character string", "--delimiter"),
        ({"user": ("Q: {question",)}, "a '{' in the template", "write {{ and }}"),
        ({"user": ("Q: {question.__class__}",), "assistant": "{answer!r}"}, "--assistant names {answer!r}", ""),
        ({"val_fraction": 1.0}, "leave nothing for training", ""),
        ({"image_dir": Path("/nowhere")}, "no such folder", "--image_dir"),
    ],
)
def test_a_wrong_name_gets_the_real_ones_and_a_hint(tmp_path: Path, wish: dict[str, Any], what: str, hint: str) -> None:
    path = write_delimited(tmp_path / "t.csv", ROWS)

    with pytest.raises(UserError) as caught:
        list(table.plan(options(path, **wish)))

    assert what in caught.value.what
    assert hint in str(caught.value.fix)


def test_what_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"PK")

    for path, what in ((tmp_path, "no table here"), (tmp_path / "a.xlsx", r"no table is called \*.xlsx")):
        with pytest.raises(UserError, match=what):
            list(table.plan(options(path)))


def test_parquet_that_is_cut(tmp_path: Path, write_parquet: Callable[..., Path]) -> None:
    path = write_parquet(tmp_path / "train.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:-20])

    with pytest.raises(UserError, match="cannot read this Parquet file") as caught:
        list(table.plan(options(path)))
    assert caught.value.where == path


def test_text_with_the_models_tokens_costs_its_row(tmp_path: Path, converted: Callable[..., Any]) -> None:
    rows = [{"question": "What <|end|>?", "answer": "y"}, {"question": "What?", "answer": "y"}]

    done = converted("table", options(write_delimited(tmp_path / "train.csv", rows), image=()), on_error="skip")

    assert len(done.records["train"]) == 1
    ((reason, message),) = done.rejected
    assert reason == "breaks-contract"
    assert "<|end|>" in message


def test_a_prompt_among_several_is_recorded(tmp_path: Path, converted: Callable[..., Any]) -> None:
    rows = [{"question": f"{n}?", "answer": "y"} for n in range(30)]
    path = write_delimited(tmp_path / "train.csv", rows)

    done = converted("table", options(path, image=(), user=("question", "Well: {question}")))

    for number, record in enumerate(done.records["train"]):
        texts = (f"{number}?", f"Well: {number}?")
        assert record["conversations"][0]["user"] == texts[record["metadata"]["prompt"]]
    assert {record["metadata"]["prompt"] for record in done.records["train"]} == {0, 1}


def test_memory_stays_flat_however_many_pictures_a_parquet_file_holds(tmp_path: Path, run: Callable[..., Any]) -> None:
    """Parquet of 120 MB in one row group, read in a process that may take 60 MB more than it has when it begins."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    noise = np.random.default_rng(0)
    schema = pa.schema([("question", pa.string()), ("picture", pa.binary())])
    rows = [{"question": f"{n}?", "picture": noise.bytes(1_000_000)} for n in range(120)]
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "t.parquet", row_group_size=1000)
    script = (
        "import resource, sys; from pathlib import Path; from phi3v.converters.parquet import read_parquet\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "rows = read_parquet(Path(sys.argv[1]), 't'); next(rows); before = peak()\n"
        "count = 1 + sum(1 for _ in rows); print(count, peak() - before)\n"
    )

    done = run("python", "-c", script, tmp_path / "t.parquet")

    assert done.returncode == 0, done.stderr
    count, grown = done.stdout.split()
    assert int(count) == 120
    assert float(grown) < 60


def test_real_titanic_rows(shared: Path, converted: Callable[..., Any]) -> None:
    """891 rows with quotes, commas and empty cells."""
    path = shared / "realdata/csv/titanic.csv"
    wish = options(path, user=("{Name} of class {Pclass}, {Age}",), assistant="Survived", image=(), val_fraction=0.0)

    done = converted("table", wish)

    expected = [
        (f"{row['Name']} of class {row['Pclass']}, {row['Age']}", row["Survived"])
        for row in csv.DictReader(io.StringIO(path.read_text()))
    ]
    assert done.turns("train") == expected
    assert len(expected) == 891
