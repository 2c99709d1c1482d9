"""Links in the documentation lead somewhere, the README's file tree is complete, and no page names a machine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from localhyper.database import MIGRATIONS
from tests.conftest import REPOSITORY

PAGES = sorted(
    [REPOSITORY / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
    + list((REPOSITORY / "docs").rglob("*.md"))
)
_LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(#[^)\s]*)?\)")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.S)
_MACHINE = re.compile(r"(?<![\w.])/(home|root|Users|work|mnt)/|localhost|[A-Z]:\\\\")
_HOSTS = re.compile(r"pypi\.org|pythonhosted|huggingface\.co|download\.pytorch|(?<![\w-])hf\.co|index-url https?:")
_NOT_ROOMS = {"snapshot_report.html"}


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _anchors(page: Path) -> set[str]:
    """Anchors as GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", _text(page), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_and_anchors_exist(page: Path) -> None:
    for match in _LINK.finditer(_CODE.sub("", _text(page))):
        target, anchor = match[1], (match[2] or "")[1:]
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page.name} links to {target}, which does not exist"
        assert not anchor or anchor in _anchors(file), f"{page.name} links to {target}#{anchor}, which does not exist"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_names_a_machine_or_a_registry(page: Path) -> None:
    for pattern in (_MACHINE, _HOSTS):
        found = pattern.search(_text(page))
        assert found is None, f"{page.name}: {found.group() if found else ''}"


def _tree() -> str:
    readme = _text(REPOSITORY / "README.md")
    return readme.partition("## What lies where")[2].split("```")[1]


def _named() -> tuple[set[str], set[str]]:
    """Names at the top, and names inside `localhyper/`, as the tree gives them."""
    top: set[str] = set()
    inner: set[str] = set()
    for line in _tree().strip().splitlines():
        inside = line.startswith(("├── ", "└── "))
        words = re.split(r"\s{2,}", line.removeprefix("├── ").removeprefix("└── "))
        names = [word for word in words if re.fullmatch(r"[\w./-]+\.\w+|\.?\w+/|LICENSE|Makefile", word)]
        assert names, f"no name in `{line}`"
        (inner if inside else top).update(name.rstrip("/") for name in names)
    return top, inner


def _tracked(folder: str = "") -> set[str]:
    """First parts of the names git would keep in `folder`."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", folder or "."]
    try:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    names = {line.removeprefix(f"{folder}/" if folder else "").split("/")[0] for line in done.stdout.splitlines()}
    return {name for name in names if (REPOSITORY / folder / name).exists()}


def test_readme_names_every_file_and_room_and_nothing_else() -> None:
    top, inner = _named()
    hidden = {name for name in _tracked() if name.startswith(".") and name != ".ci"}
    assert top == _tracked() - hidden - _NOT_ROOMS
    assert inner == _tracked("localhyper") - {"export", "tui"}  # the two links


def test_readme_is_short() -> None:
    assert 60 <= len(_text(REPOSITORY / "README.md").splitlines()) <= 150


def test_decisions_are_numbered_without_gaps_and_say_three_things() -> None:
    files = sorted((REPOSITORY / "docs" / "decisions").glob("*.md"))
    assert [int(file.name[:4]) for file in files] == list(range(1, len(files) + 1))
    for file in files:
        text = _text(file)
        assert text.startswith(f"# {file.name[:4]}: ")
        assert [part in text for part in ("**Context.**", "**Decision.**", "**Consequence.**")] == [True] * 3


def test_formats_page_names_every_bundle_field_and_table() -> None:
    page = _text(REPOSITORY / "docs" / "formats.md")
    source = _text(REPOSITORY / "localhyper" / "bundle.py")
    for field in re.findall(r'\b(?:top|base)\.(?:text|digest|whole|wholes|inner)\("(\w+)"', source):
        assert re.search(rf"`(base\.)?{field}[`.]", page), field
    for table in re.findall(r"CREATE (?:VIRTUAL )?TABLE (\w+)", _text(REPOSITORY / "localhyper" / "database.py")):
        assert f"| `{table}` |" in page
    assert f"`PRAGMA user_version` = {len(MIGRATIONS)} " in page
