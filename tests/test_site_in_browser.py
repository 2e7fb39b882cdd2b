"""The documentation site as Chromium shows it, on a phone and a desk, light and dark: nothing is cut, all can be read.

Run with: ``pytest -m slow tests/test_site_in_browser.py`` (needs Debian's ``chromium`` and ``npm``, for axe-core;
``AXE`` names an ``axe.min.js`` that is there already).
"""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue

import pytest

CHROMIUM = shutil.which("chromium")
SECONDS = 540
"""Before a browser that does not report is an error."""

# Every page in a frame of that width, since a window is 500 wide at the least; then what was found goes to the server.
LOOK = """<!doctype html><iframe id="frame" width="%d" height="900" style="border: 0"></iframe><script>
const frame = document.getElementById('frame');
const shown = (page) => new Promise((done) => { frame.onload = done; frame.src = page; });
const hides = (e) => ['hidden', 'clip'].includes(frame.contentWindow.getComputedStyle(e).overflowX);
const called = (e) => e.tagName.toLowerCase() + ' ' + e.textContent.trim().slice(0, 40);
async function look(page) {
  await shown(page);
  const view = frame.contentWindow, root = view.document.documentElement;
  await view.document.fonts.ready;
  view.document.body.append(Object.assign(view.document.createElement('style'),
    {textContent: '*, *::before, *::after { transition: none !important; animation: none !important; }'}));
  const scheme = view.document.body.getAttribute('data-md-color-scheme');
  const found = [];
  if (root.scrollWidth > root.clientWidth) found.push('wider than the window: ' + root.scrollWidth);
  for (const e of view.document.querySelectorAll('article *'))
    if (hides(e) && e.clientWidth && e.scrollWidth > e.clientWidth + 1) found.push('cut: ' + called(e));
  const contrast = await view.axe.run(view.document, {runOnly: ['color-contrast'], resultTypes: ['violations']});
  for (const rule of contrast.violations)
    for (const node of rule.nodes) found.push(node.any[0].message.slice(0, 120) + ' ' + node.html.slice(0, 120));
  return {scheme, found, looked: contrast.passes.length};
}
(async () => {
  const told = {};
  try { for (const page of %s) told[page] = await look(page); }
  catch (error) { told.error = String(error); }
  await fetch('/told', {method: 'POST', body: JSON.stringify(told)});
})();
</script>"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
    pytest.mark.skipif(not (os.environ.get("AXE") or shutil.which("npm")), reason="needs npm, or AXE"),
]


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = os.environ.get("AXE")
    if path is None:
        there = tmp_path_factory.mktemp("axe")
        subprocess.run(["npm", "install", "--silent", "--prefix", there, "axe-core@4"], check=True)
        path = str(there / "node_modules" / "axe-core" / "axe.min.js")
    return Path(path).read_text(encoding="utf-8")


class Served:
    """The site with axe in each page, the page that looks at the others, and what it told."""

    def __init__(self, site: Path, axe: str) -> None:
        self.told: Queue[dict[str, dict[str, object]]] = Queue()
        self.pages = sorted(f"/{page.relative_to(site).as_posix()}" for page in site.rglob("index.html"))
        served = self

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *arguments: object) -> None:
                super().__init__(*arguments, directory=str(site))

            def do_GET(self) -> None:
                if self.path.startswith("/look-"):
                    self._send(LOOK % (int(self.path.removeprefix("/look-")), json.dumps(served.pages)))
                elif self.path.endswith(".html"):
                    page = (site / self.path[1:]).read_text(encoding="utf-8")
                    self._send(page.replace("</body>", f"<script>{axe}</script></body>"))
                else:
                    with suppress(ConnectionError):  # a page that is left while it loads
                        super().do_GET()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self._send("")
                served.told.put(json.loads(body))

            def _send(self, page: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.end_headers()
                self.wfile.write(page.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture(scope="module")
def served(site: Path, axe: str) -> Iterator[Served]:
    served = Served(site, axe)
    thread = threading.Thread(target=served.server.serve_forever)
    thread.start()
    try:
        yield served
    finally:
        served.server.shutdown()
        thread.join()
        served.server.server_close()


@pytest.mark.parametrize("scheme", ["default", "slate"])
@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_cut_and_all_can_be_read(served: Served, tmp_path: Path, width: int, scheme: str) -> None:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={tmp_path}"]
    flags += [f"--window-size={max(width, 500)},900"]
    flags += ["--blink-settings=preferredColorScheme=0"] if scheme == "slate" else []
    command = [str(CHROMIUM), *flags, f"{served.address}/look-{width}"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as browser:
        try:
            told = served.told.get(timeout=SECONDS)
        finally:
            browser.terminate()
    assert sorted(told) == served.pages, told.get("error")
    assert {page: each["found"] for page, each in told.items() if each["found"]} == {}
    assert {each["scheme"] for each in told.values()} == {scheme}
    assert all(each["looked"] for each in told.values())
