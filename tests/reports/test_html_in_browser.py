"""The page in a real browser without network. Run with: pytest -m slow tests/reports/test_html_in_browser.py
(needs Debian's ``chromium``)."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from glmquant.evaluation.results import PromptAnswers, Subject
from glmquant.reports.html import to_html
from glmquant.store.circumstances import BundleSpeed, circumstances
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
# Text whose ratio of luminances to what lies behind it is below WCAG 2.2's 4.5 (1.4.3), large text's 3.
CONTRAST = """<script>
const rgba = (color) => {
  const parts = color.match(/[\\d.]+/g).map(Number);
  if (color.startsWith('color(')) parts.splice(0, 3, ...parts.slice(0, 3).map((x) => 255 * x));
  return parts.length > 3 ? parts : [...parts, 1];
};
const over = (top, below) => top.slice(0, 3).map((x, i) => x * top[3] + below[i] * (1 - top[3]));
const behind = (element) => element === null ? [255, 255, 255]
  : over(rgba(getComputedStyle(element).backgroundColor), behind(element.parentElement));
const channel = (x) => x / 255 <= 0.04045 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4;
const luminance = (c) => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
const ratio = (a, b) => (Math.max(luminance(a), luminance(b)) + 0.05) / (Math.min(luminance(a), luminance(b)) + 0.05);
const found = [];
let seen = 0;
for (const element of document.querySelectorAll('main *')) {
  const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || ['title', 'style'].includes(element.tagName) || !element.getClientRects().length) continue;
  const style = getComputedStyle(element), inDrawing = element.tagName === 'text';
  let back = behind(inDrawing ? element.closest('svg').parentElement : element);
  if (inDrawing) {
    const place = element.getBoundingClientRect(), x = place.x + place.width / 2, y = place.y + place.height / 2;
    for (const rect of element.closest('svg').querySelectorAll('rect')) {
      const r = rect.getBoundingClientRect(), fill = getComputedStyle(rect);
      const holds = r.left <= x && x <= r.right && r.top <= y && y <= r.bottom;
      if (holds) { const c = rgba(fill.fill); back = over([c[0], c[1], c[2], c[3] * fill.fillOpacity], back); }
    }
  }
  const size = parseFloat(style.fontSize), bold = style.fontWeight >= 700;
  const least = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
  const got = ratio(over(rgba(inDrawing ? style.fill : style.color), back), back);
  seen += 1;
  if (got < least) found.push(element.textContent.trim().slice(0, 30) + ' ' + got.toFixed(2));
}
document.title = 'contrast of ' + (seen > 50 ? 'all' : seen) + '; too low: ' + found.join(' | ');
</script>"""
STYLES = """<script>
const style = (selector) => getComputedStyle(document.querySelector(selector));
const found = [style('.badge').backgroundColor, style('section').borderRadius, style('.heat').fill];
document.title = 'styles ' + found.join('; ');
</script>"""

SUBJECT = Subject(
    source="THUDM/chatglm2-6b",
    revision="3a1f0c" + "0" * 34,
    fingerprint="f" * 64,
    recipe="int4-g128-gptq",
    changes=("check.num_tokens=4096", 'calibration.data=["a rather long name of a file of text.txt"]'),
    calibration="c" * 64,
    files={"model.onnx": "a" * 64, "model.onnx.data": "b" * 64},
)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")]


def page_of(tmp_path: Path, probe: str) -> Path:
    """A page with everything, which looks at itself."""
    whole = replace(
        full(),
        setting=replace(full().setting, subject=SUBJECT),
        answers=(PromptAnswers("你好", "你好，" * 40, "x" * 300, 3, 120),),
    )
    made = circumstances({"quantize": 70.0, "check": 20.0}, BundleSpeed(128, 0.5, 32, 3.0, 3 * 10**9, 2))
    page = tmp_path / "page.html"
    shown = to_html(whole, [whole], [["candidate", "verdict"], ["a", "b"]], made)
    page.write_text(shown.replace("</body>", probe + "</body>"), encoding="utf-8")
    return page


def chromium(*arguments: str) -> str:
    command = [str(CHROMIUM), *FLAGS, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.parametrize("width", [1280, 500])
def test_nothing_leaves_its_place(tmp_path: Path, width: int) -> None:
    """Chromium's windows are 500 wide at the least; the frame of 400 is a page's own."""
    seen = chromium(f"--window-size={width},1000", "--dump-dom", page_of(tmp_path, PROBE).as_uri())
    title = re.search("<title>(drawn [^<]*)</title>", seen)
    assert title is not None
    assert title[1] == "drawn 8; outside: "


def test_nothing_is_cut_on_a_phone(tmp_path: Path) -> None:
    """What is wider than its place can be scrolled to, and nothing makes the page itself wider than 400."""
    page = page_of(tmp_path, "")
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<title>?</title><iframe id="f" width="400" height="900" src="{page.as_uri()}" '
        "onload=\"const d = this.contentDocument; const cut = [...d.querySelectorAll('main *')].filter((e) => "
        "e.scrollWidth > e.clientWidth + 1 && e.clientWidth && getComputedStyle(e).overflowX !== 'auto' && "
        "!e.closest('svg')).map((e) => e.tagName + ' ' + e.className); "
        "document.title = 'width ' + d.documentElement.scrollWidth + '; cut: ' + cut.join(' | ')\"></iframe>",
        encoding="utf-8",
    )
    seen = chromium("--allow-file-access-from-files", "--dump-dom", frame.as_uri())
    title = re.search("<title>(width [^<]*)</title>", seen)
    assert title is not None
    assert title[1] == "width 400; cut: "


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_what_is_behind_it(tmp_path: Path, scheme: str) -> None:
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    seen = chromium(*dark, "--window-size=1280,1000", "--dump-dom", page_of(tmp_path, CONTRAST).as_uri())
    title = re.search("<title>(contrast [^<]*)</title>", seen)
    assert title is not None
    assert title[1] == "contrast of all; too low: "


def test_the_style_sheet_applies(tmp_path: Path) -> None:
    """The verdict's badge is red, a card has rounded corners, and the heat map of layers is colored."""
    page = tmp_path / "page.html"
    page.write_text(to_html(full(), [full()]).replace("</body>", STYLES + "</body>"), encoding="utf-8")
    seen = chromium("--window-size=1120,1000", "--dump-dom", page.as_uri())
    title = re.search("<title>(styles [^<]*)</title>", seen)
    assert title is not None
    assert title[1] == "styles rgb(198, 40, 40); 12px; rgb(29, 78, 216)"
