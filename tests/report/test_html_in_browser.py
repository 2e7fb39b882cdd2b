"""The page in a real browser without network. Run with: pytest -m slow tests/accuracy/test_html_in_browser.py
(needs Debian's ``chromium``)."""

import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from glmquant.report.html import to_html
from tests.report.test_html import full

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


def test_it_is_painted(tmp_path: Path) -> None:
    page, picture = tmp_path / "page.html", tmp_path / "page.png"
    page.write_text(to_html(full(), [full()]), encoding="utf-8")
    chromium("--window-size=1120,3000", f"--screenshot={picture}", page.as_uri())
    assert len(colors(picture)) > 100


def colors(png: Path) -> set[bytes]:
    """Different values of four bytes in the picture's rows, filtered as they are stored."""
    content, data = png.read_bytes(), b""
    place = 8
    while place < len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        if content[place + 4 : place + 8] == b"IDAT":
            data += content[place + 8 : place + 8 + length]
        place += 12 + length
    raw = zlib.decompress(data)
    return {raw[i : i + 4] for i in range(0, len(raw) - 4, 97)}
