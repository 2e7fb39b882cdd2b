"""The page in a real browser without network. Run with: pytest -m slow tests/reports/test_html_in_browser.py
(needs Debian's ``chromium``)."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from glmquant.reports.html import to_html
from tests.reports.test_html import full

CHROMIUM = shutil.which("chromium")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND")
# Words that leave their drawing, and a page wider than its window.
PROBE = """<script>
const bad = [];
for (const svg of document.querySelectorAll('svg')) {
  const box = svg.getBoundingClientRect();
  for (const text of svg.querySelectorAll('text')) {
    const t = text.getBoundingClientRect();
    if (t.left < box.left - 1 || t.right > box.right + 1 || t.top < box.top - 1 || t.bottom > box.bottom + 1)
      bad.push(svg.getAttribute('aria-label') + ': ' + text.textContent);
  }
}
if (document.documentElement.scrollWidth > innerWidth) bad.push('wider than the window');
document.title = 'drawn ' + document.querySelectorAll('svg').length + '; outside: ' + bad.join(' | ');
</script>"""
STYLES = """<script>
const style = (selector) => getComputedStyle(document.querySelector(selector));
const found = [style('.badge').backgroundColor, style('section').borderRadius, style('.heat').fill];
document.title = 'styles ' + found.join('; ');
</script>"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")]


def chromium(*arguments: str) -> str:
    command = [str(CHROMIUM), *FLAGS, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.parametrize("width", [1120, 420])
def test_nothing_leaves_its_place(tmp_path: Path, width: int) -> None:
    page = tmp_path / "page.html"
    page.write_text(to_html(full(), [full()]).replace("</body>", PROBE + "</body>"), encoding="utf-8")
    seen = chromium(f"--window-size={width},1000", "--dump-dom", page.as_uri())
    title = re.search("<title>(drawn [^<]*)</title>", seen)
    assert title is not None
    assert title[1] == "drawn 8; outside: "


def test_the_style_sheet_applies(tmp_path: Path) -> None:
    """The verdict's badge is red, a card has rounded corners, and the heat map of layers is colored."""
    page = tmp_path / "page.html"
    page.write_text(to_html(full(), [full()]).replace("</body>", STYLES + "</body>"), encoding="utf-8")
    seen = chromium("--window-size=1120,1000", "--dump-dom", page.as_uri())
    title = re.search("<title>(styles [^<]*)</title>", seen)
    assert title is not None
    assert title[1] == "styles rgb(198, 40, 40); 12px; rgb(37, 99, 235)"
