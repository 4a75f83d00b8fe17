"""The documentation is whole: its links lead somewhere, the README leads to each page, each error is in its table."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from pdserver.dialects.torchserve.errors import STATUS

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
SOURCES = sorted(path for room in ("pdserver", "pdarchiver") for path in ROOT.glob(f"{room}/**/*.py"))
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
ABSOLUTE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings: lower case, without punctuation, hyphens for spaces, numbered when repeated."""
    seen: dict[str, int] = {}
    names: set[str] = set()
    for heading in HEADING.findall(FENCE.sub("", page.read_text())):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        count = seen[name] = seen.get(name, -1) + 1
        names.add(f"{name}-{count}" if count else name)
    return names


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere; links to other sites are not followed."""
    bad = []
    for inline, reference in LINK.findall(FENCE.sub("", page.read_text())):
        link = inline or reference
        if ABSOLUTE.match(link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            bad.append(link)
    return bad


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page: Path) -> None:
    assert broken(page) == []


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_files_that_are_named_are_there(page: str) -> None:
    named = re.findall(r"`((?:pdserver|pdarchiver|tests)/[\w/.]*)`", (ROOT / page).read_text())
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A heading, `here`\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md) [b](other.md#a-heading-here) [c](other.md#nowhere) [d](gone.md) [e](#top) [f](https://x.y/z)\n"
        "```\n[g](in-code.md)\n```\n"
    )
    assert broken(page) == ["other.md#nowhere", "gone.md", "#top"]


@pytest.mark.parametrize(("readme", "folder"), [("README.md", "docs"), ("README.zh-CN.md", "docs/zh-CN")])
def test_the_readme_leads_to_every_page(readme: str, folder: str) -> None:
    linked = {link for link, _ in LINK.findall((ROOT / readme).read_text())}
    assert {f"{folder}/{page.name}" for page in ROOT.glob(f"{folder}/*.md")} <= linked


def test_the_languages_lead_to_each_other() -> None:
    for readme, other in (("README.md", "README.zh-CN.md"), ("README.zh-CN.md", "README.md")):
        assert f"]({other})" in (ROOT / readme).read_text().splitlines()[0]


def test_the_errors_that_the_chinese_page_quotes_are_those_of_the_code() -> None:
    """Those that its commands don't show, piece by piece: "…" stands for what differs."""
    code = re.sub(r'"\s*f?"', "", "".join(path.read_text() for path in SOURCES))
    quoted = re.findall(r"^```text\n(.*?)^```", (ROOT / "docs/zh-CN/errors.md").read_text(), re.MULTILINE | re.DOTALL)
    pieces = {piece for block in quoted for line in block.splitlines() for piece in line.split("…")}
    assert len(pieces) > 10
    assert {piece for piece in pieces if piece not in code} == set()


def test_the_tables_of_errors_have_every_status_and_type() -> None:
    documented = {
        (int(status), name)
        for page in ("inference", "management")
        for status, name in re.findall(
            r"^\| (\d{3}) \| `(\w+)` \|", (ROOT / f"docs/{page}.md").read_text(), re.MULTILINE
        )
    }
    # The HTTP library's own two, which are no errors of a model.
    of_urls = {(404, "ResourceNotFoundException"), (405, "MethodNotAllowedException")}
    assert documented == {*STATUS.values(), *of_urls}


def test_every_page_that_help_names_exists() -> None:
    texts = [path.read_text() for path in (*SOURCES, ROOT / "Makefile", ROOT / "config.properties")]
    named = {page for text in texts for page in re.findall(r"(?<![\w/])docs/[\w-]+\.md", text)}
    assert named
    assert {page for page in named if not (ROOT / page).is_file()} == set()
