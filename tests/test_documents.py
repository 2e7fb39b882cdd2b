"""Every relative link of every Markdown document leads to a file, and to a heading where it names one."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from tests.test_layers import LAYERS

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|^\[[^\]]+\]:\s+(\S+)", re.MULTILINE)
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def documents() -> list[Path]:
    """Those of the project: what git knows, or all outside environments where there is no git."""
    try:
        command = ["git", "ls-files", "-co", "--exclude-standard", "*.md"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return [path for name in listed.stdout.splitlines() if (path := ROOT / name).exists()]
    except (OSError, subprocess.CalledProcessError):
        return [path for path in ROOT.rglob("*.md") if not any(part.startswith(".venv") for part in path.parts)]


def headings(document: Path) -> set[str]:
    """Anchors as GitHub and GitLab make them."""
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


def broken_links(document: Path) -> list[str]:
    broken = []
    for inline, reference in LINK.findall(CODE.sub("", document.read_text(encoding="utf-8"))):
        target, _, anchor = (inline or reference).partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = document if not target else document.parent / target
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in headings(path)):
            broken.append(inline or reference)
    return broken


def test_the_documents_are_found() -> None:
    assert {ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"} <= set(documents())


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    assert broken_links(document) == []


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("# A title\n[x](gone.md) [y](#a-title) [z](#no-title) [w](https://example.org) `[v](code.md)`")
    assert broken_links(document) == ["gone.md", "#no-title"]


ARCHITECTURE = ROOT / "docs" / "architecture.md"
STOP = re.compile(r"\[([\w.]+)\]\((\.\./glmquant/[\w/]+\.py)\)")


def defined(path: Path) -> set[str]:
    """Functions, classes and methods (``Class.method``) of a module, and its file name."""
    names = {path.name}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return names


def test_every_stop_of_a_journey_is_defined_where_its_link_leads() -> None:
    stops = STOP.findall(ARCHITECTURE.read_text(encoding="utf-8"))
    assert len(stops) > 30
    assert [name for name, file in stops if name not in defined(ARCHITECTURE.parent / file)] == []


def test_the_rooms_stand_in_the_order_of_the_layers() -> None:
    rows = re.findall(r"^\| ((?:`\w+` ?)+)\|", ARCHITECTURE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [set(re.findall(r"\w+", row)) for row in rows] == LAYERS
