"""A page as Markdown and as HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from phi3v.trainer.pages import Heading, Picture, Table, Text, write_html, write_markdown

HOSTILE = '<script>alert(1)</script> | ![x](http://evil.example/a.png) `a` "q" & \\ \n second line'
PAGE = [
    Heading("A & B", 1),
    Text(HOSTILE),
    Picture("curves.svg", HOSTILE, b"<svg/>"),
    Table(["a", "b"], [[HOSTILE, (Picture("one.jpg", "one", b"\xff\xd8"), Picture("two.jpg", "two", b"\xff\xd9"))]]),
]


class Read(HTMLParser):
    """What a browser finds in a page: tags with their attributes, and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_html_needs_no_other_file_and_runs_nothing(tmp_path: Path) -> None:
    write_html(tmp_path / "page.html", PAGE)

    page = Read()
    page.feed((tmp_path / "page.html").read_text())
    assert page.open == []
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "a"}
    sources = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    assert [source.partition(";")[0] for source in sources] == ["data:image/svg+xml", *["data:image/jpeg"] * 2]
    assert page.texts.count(HOSTILE) == 2, "what was answered is shown as it is"
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_markdown_has_its_pictures_beside_it(tmp_path: Path) -> None:
    write_markdown(tmp_path / "page.md", PAGE)

    text = (tmp_path / "page.md").read_text()
    targets = re.findall(r"(?<!\\)!\[[^\n]*?(?<!\\)\]\(([^)]*)\)", text)
    assert targets == ["page_files/curves.svg", "page_files/one.jpg", "page_files/two.jpg"]
    assert (tmp_path / "page_files/one.jpg").read_bytes() == b"\xff\xd8"
    assert "<script" not in text


def test_a_cell_of_markdown_stays_one_cell(tmp_path: Path) -> None:
    write_markdown(tmp_path / "page.md", [Heading("T", 1), Table(["a", "b"], [[HOSTILE, "x"]])])

    row = (tmp_path / "page.md").read_text().splitlines()[-1]
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
