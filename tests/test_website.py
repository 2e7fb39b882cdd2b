"""The documentation site: generated pages are up to date, translations have their original's code, and it builds."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from website.pages import DOCS, ROOT, written
from website.translations import TRANSLATIONS, with_blocks_of

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PUBLISHED = PROJECT["urls"]["Repository"]


@pytest.fixture(scope="module")
def fresh() -> dict[Path, str]:
    return written()


def test_generated_pages_are_up_to_date(fresh: dict[Path, str]) -> None:
    stale = [path.name for path, text in fresh.items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run `python -m website`"


@pytest.mark.parametrize("name", TRANSLATIONS)
def test_a_translation_links_to_what_its_original_is(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert re.search("[\u4e00-\u9fff]", text)
    assert "```\n```" not in text


def test_a_translation_without_a_block_of_its_original_is_refused() -> None:
    with pytest.raises(ValueError, match="0 code blocks, its original 1"):
        with_blocks_of("```bash\nls\n```\n", "no code")


def test_every_command_and_public_name_has_its_section(fresh: dict[Path, str]) -> None:
    import glmquant
    from glmquant.cli.commands import COMMANDS

    commands, api = fresh[DOCS / "commands.md"], fresh[DOCS / "api.md"]
    assert [each.__name__ for each in COMMANDS if f"\n## {each.__name__.replace('_', '-')}\n" not in commands] == []
    values = set(glmquant.__all__) - {"METHODS"}
    assert {name for name in values if f"\n### {name}\n" not in api} == set()


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_its_links_leave_docs(site: Path) -> None:
    page = (site / "chat-model" / "index.html").read_text(encoding="utf-8")
    assert f"{PUBLISHED}/blob/main/benchmarks/gptq_large/result.md" in page
    assert 'href="../benchmarks' not in page


@pytest.mark.slow
def test_every_page_has_a_place_in_the_navigation(site: Path) -> None:
    start = (site / "index.html").read_text(encoding="utf-8")
    for page in DOCS.glob("*.md"):
        assert page.name == "index.md" or f'href="{page.stem}/"' in start, page.name


@pytest.mark.slow
def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    start = (site / "index.html").read_text(encoding="utf-8")
    loaded = re.findall(r'<(?:script|link)[^>]+(?:src|href)="(https?:[^"]+)"', start)
    assert loaded == []


def test_the_repository_is_the_projects() -> None:
    lines = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").splitlines()
    assert yaml.safe_load(next(line for line in lines if line.startswith("repo_url:")))["repo_url"] == PUBLISHED
