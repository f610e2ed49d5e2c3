"""What holds for every page of the docs: generated parts are up to date, links lead somewhere, words are ours."""

import re
from pathlib import Path

import pytest

from tests.docs.generated import PAGES, ROOT, Page, Table, blocks, rewritten

TEXTS = sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))
REGENERATE = "python -m tests.docs.generated writes it anew"


def without_code(text: str) -> str:
    """A page without its listings, in which a bracket is no link."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """What a link into a page may name: its headings, as hosts of repositories make anchors of them."""
    headings = re.findall(r"^#+ (.+)$", without_code(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
def test_generated_parts_are_what_the_code_says(page: Page) -> None:
    """Tables, lists, diagrams and listings of a page equal the code they speak of."""
    text = (ROOT / page.path).read_text()
    assert sorted(blocks(text)) == sorted(page.parts)
    fresh = blocks(rewritten(page, text))
    assert [name for name, block in blocks(text).items() if block != fresh[name]] == [], REGENERATE


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
def test_every_generated_row_has_a_meaning(page: Page) -> None:
    """A field, reason or setting that is new gets its words from a person; none is left empty."""
    text = blocks((ROOT / page.path).read_text())
    tables = [name for name, part in page.parts.items() if isinstance(part, Table)]
    assert [line for name in tables for line in text[name].splitlines() if line.endswith("|  |")] == []


def test_a_table_keeps_what_a_person_wrote() -> None:
    """Columns of the code are made anew, the others are kept by row; a new row is empty, an old one goes."""
    table = Table(("name", "type", "meaning"), [("`a`", "count"), ("`new`", "text")])
    old = "| name | type | meaning |\n| --- | --- | --- |\n| `a` | wrong | the first |\n| `gone` | text | old |\n"
    head = "| name | type | meaning |\n| --- | --- | --- |\n"
    assert table(old) == f"{head}| `a` | count | the first |\n| `new` | text |  |\n"


@pytest.mark.parametrize("name", TEXTS)
def test_relative_links_resolve(name: str) -> None:
    """Every link that is no address on the web leads to a file of the clone, and to a heading that is there."""
    text = (ROOT / name).read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), f"{name} links to {target}"
        assert not anchor or anchor in anchors(file.read_text()), f"{name} links to {target}"


@pytest.mark.parametrize("name", TEXTS)
def test_files_named_in_text_exist(name: str) -> None:
    """A path of ours in code type is a path of the clone."""
    folders = "aggregator|broker|docs|edge_client|examples|scripts|shared|simulator|tests"
    named = re.findall(rf"`((?:{folders})/(?:[\w-]+/)*[\w-]+\.\w+)`", (ROOT / name).read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_paper_of_the_glossary_is_cited_and_listed() -> None:
    """Numbers in the last column are those of the list of papers."""
    text = Path(ROOT / "docs/glossary.md").read_text()
    table, _, papers = text.partition("## Papers")
    assert set(re.findall(r"\[(\d)\]", table)) == set(re.findall(r"^(\d)\. ", papers, flags=re.MULTILINE))
