"""A page of headings, texts, tables and pictures, as Markdown with its pictures beside it, or as one HTML file."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from phi3v.schema.jsonl import atomic_write


class Heading(NamedTuple):
    """A heading; level 1 is the page's title."""

    text: str
    level: int = 2


class Text(NamedTuple):
    """A paragraph."""

    text: str


class Picture(NamedTuple):
    """A picture: its file's name, what it shows in words, its bytes."""

    name: str
    alt: str
    data: bytes

    @property
    def kind(self) -> str:
        """Its MIME type, by its name."""
        return {"svg": "image/svg+xml", "jpg": "image/jpeg"}[self.name.rpartition(".")[2]]


Cell = str | tuple[Picture, ...]


class Table(NamedTuple):
    """Rows of texts and pictures under a heading row."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


Block = Heading | Text | Picture | Table
# Nothing is fetched and nothing runs, whatever a model has answered.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #8886; padding: .3rem .7rem; text-align: left; vertical-align: top; }
td { overflow-wrap: break-word; max-width: 24rem; white-space: pre-wrap; }
img { max-width: 100%; background: #fff; }
td img { max-height: 9rem; margin: 0 .2rem .2rem 0; }
"""


def write_markdown(path: Path, blocks: Sequence[Block]) -> None:
    """Write a page as Markdown; its pictures go into `<name>_files/` beside it."""
    folder = path.with_name(f"{path.stem}_files")
    pictures = list(_pictures(blocks))
    if pictures:
        folder.mkdir(exist_ok=True)
    for picture in pictures:
        (folder / picture.name).write_bytes(picture.data)
    with atomic_write(path) as file:
        file.write("\n".join(_markdown(block, folder.name) for block in blocks).encode())


def write_html(path: Path, blocks: Sequence[Block]) -> None:
    """Write a page as HTML that needs no other file."""
    title = next(block.text for block in blocks if isinstance(block, Heading))
    head = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
    ]
    with atomic_write(path) as file:
        file.write("\n".join([*head, *map(_html, blocks), "</body></html>\n"]).encode())


def _pictures(blocks: Sequence[Block]) -> Iterator[Picture]:
    for block in blocks:
        if isinstance(block, Picture):
            yield block
        elif isinstance(block, Table):
            yield from (picture for row in block.rows for cell in row if not isinstance(cell, str) for picture in cell)


def _markdown(block: Block, folder: str) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_plain(text)}\n"
        case Text(text):
            return f"{_plain(text)}\n"
        case Picture(name, alt):
            return f"![{_plain(alt)}]({folder}/{name})\n"
        case Table(head, rows):
            lines = [head, ["---"] * len(head), *rows]
            return "".join(f"| {' | '.join(_markdown_cell(cell, folder) for cell in line)} |\n" for line in lines)


def _markdown_cell(cell: Cell, folder: str) -> str:
    if isinstance(cell, str):
        return _plain(cell)
    return " ".join(f"![{_plain(picture.alt)}]({folder}/{picture.name})" for picture in cell)


def _plain(text: str) -> str:
    """Return a text that Markdown shows as it is: no markup, no link, no end of a cell."""
    shown = escape(text, quote=False).replace("\\", "\\\\")
    for mark in "|[]`*":
        shown = shown.replace(mark, f"\\{mark}")
    return "<br>".join(shown.splitlines())


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Text(text):
            return f"<p>{escape(text)}</p>"
        case Picture():
            return f"<p>{_html_picture(block)}</p>"
        case Table(head, rows):
            top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
            body = "\n".join(f"<tr>{''.join(f'<td>{_html_cell(cell)}</td>' for cell in row)}</tr>" for row in rows)
            return f"<table><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _html_cell(cell: Cell) -> str:
    return escape(cell) if isinstance(cell, str) else "".join(map(_html_picture, cell))


def _html_picture(picture: Picture) -> str:
    data = b64encode(picture.data).decode()
    return f'<img alt="{escape(picture.alt)}" src="data:{picture.kind};base64,{data}">'
