"""What README and docs/ name exists: files and headings behind links, modules behind `python -m`, commands, targets of make."""

import json
import re

import pytest

from diffharmony.common.assets import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "assets").rglob("*.md")])
BEFORE = re.compile(r"^\| `python -m [^|]*\|", re.MULTILINE)  # the left column of the changelog's table of moved modules


def anchors(text: str) -> set[str]:
    """The headings' names in links, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_names_exists(page):
    text = BEFORE.sub("", page.read_text(encoding="utf-8"))
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if path.startswith(("http:", "https:")):
            continue
        file = page.parent / path if path else page
        if not file.exists() or anchor and anchor not in anchors(file.read_text(encoding="utf-8")):
            missing.append(target)
    for module in re.findall(r"python -m (diffharmony(?:\.\w+)*)", text):
        place = ROOT.joinpath(*module.split(".")[1:])
        if not place.with_suffix(".py").is_file() and not (place / "__main__.py").is_file():
            missing.append(module)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    missing += [f"make {name}" for name in re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE) if f"\n{name}:" not in makefile]
    assert not missing


def test_the_list_of_nodes_is_whole():
    definitions = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    listed = re.findall(r"^\| ([A-Z][^|]*?) \|", (ROOT / "docs" / "nodes.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(node["display_name"] for node in definitions.values())


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) < 7500


HELP = sorted((ROOT / "web" / "docs").glob("*.md"))


@pytest.mark.parametrize("page", HELP, ids=lambda page: page.stem)
def test_every_help_page_shows_a_small_picture(page):
    shown = re.findall(r"^!\[[^\]]+\]\(([^)]+)\)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert shown and all(100 < (page.parent / name).stat().st_size < 50_000 for name in shown)


def test_every_help_picture_is_shown():
    text = "".join(page.read_text(encoding="utf-8") for page in HELP)
    assert [path.name for path in (ROOT / "web" / "docs").glob("*.jpg") if f"({path.name})" not in text] == []
