"""The documents: there, not empty, and no link of theirs leads nowhere."""

import re
from pathlib import Path

import pytest

from tests.style import tree

REQUIRED = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE")
DOCUMENTS = [file for file in tree.with_suffix(".md") if "golden" not in file.parts]

LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


def anchors(file: Path) -> set[str]:
    """The anchors of a document's headings, as forges make them."""
    heads = (re.sub(r"[^\w\- ]", "", head.lower()) for head in HEADING.findall(tree.text(file)))
    return {head.strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", REQUIRED)
def test_document_says_something(name: str) -> None:
    assert len(tree.text(Path(name)).split()) > 20


def test_changelog_has_entries() -> None:
    assert re.search(r"^## .+\n\n- \w", tree.text(Path("CHANGELOG.md")), re.MULTILINE)


@pytest.mark.parametrize("file", DOCUMENTS, ids=str)
def test_links_lead_somewhere(file: Path) -> None:
    for link in LINK.findall(tree.text(file)):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (tree.ROOT / file.parent / path).resolve() if path else tree.ROOT / file
        assert target.exists(), f"{file}: no {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.relative_to(tree.ROOT)), f"{file}: no heading for {link}"


CITATION = re.compile(r'^\s*//[/!] Format: (\w+), (".*?)\.?$', re.MULTILINE)


@pytest.mark.parametrize("file", tree.with_suffix(".rs"), ids=str)
def test_cited_formats_are_described(file: Path) -> None:
    for name, titles in CITATION.findall(tree.text(file)):
        headings = HEADING.findall(tree.text(Path(f"docs/formats/{name}.md")))
        for title in re.findall(r'"([^"]+)"', titles):
            assert title in headings, f"{file} cites {title}, which docs/formats/{name}.md does not describe"
