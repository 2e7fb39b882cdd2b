"""What mkdocs is told beside ``mkdocs.yml``: which pages there are, and where links out of ``docs/`` lead."""

import posixpath
import re
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

CODE: Final = re.compile(r"^```.*?^```|^ {4}[^\n]*$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK: Final = re.compile(r"(\]\()(\.\./[^)\s]+)(\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Drops places of the navigation whose page is not there, and adds pages that have no place at its end."""
    there = {file.src_uri for file in files.documentation_pages()}
    config.nav = _kept(config.nav, there)
    others = sorted(there - set(_named(config.nav)))
    if others:
        config.nav.append({"More": others})
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to files of the repository outside ``docs/`` lead to them where it is hosted."""

    def hosted(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), link[2]))
        return f"{link[1]}{config.repo_url}/{'tree' if link[2].endswith('/') else 'blob'}/main/{path}{link[3]}"

    pieces, end = [], 0
    for code in CODE.finditer(markdown):
        pieces += [LINK.sub(hosted, markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*pieces, LINK.sub(hosted, markdown[end:])])


def _kept(nav: Any, there: set[str]) -> Any:
    if isinstance(nav, str):
        return nav if nav in there else None
    if isinstance(nav, dict):
        return {title: kept for title, each in nav.items() if (kept := _kept(each, there))} or None
    return [kept for each in nav if (kept := _kept(each, there))]


def _named(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [name for each in (nav.values() if isinstance(nav, dict) else nav) for name in _named(each)]
