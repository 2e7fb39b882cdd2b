"""The handbook's text from the HTML of Debian's package ``debian-handbook``, split as the demonstration model's was.

    apt-get download debian-handbook && dpkg -x debian-handbook_*.deb DEB      # DEB/usr/share/doc/debian-handbook/html

What is held out lies in ``glmquant/assets``; the training text is what stands before it.
"""

from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path

from benchmarks.demo_model.corpus import Corpus, Handbook, Reviews
from glmquant import assets

LANGUAGES = {"en": "en-US", "zh": "zh-CN"}
SHORTEST = 41
"""Characters of a paragraph; shorter ones are headings and cells of tables."""
CHINESE_SHARE = 0.3
"""Of a Chinese paragraph's characters; where fewer are, it has not been translated."""
_WITHOUT_END = {"area", "br", "col", "hr", "img", "input", "link", "meta"}


class _Paragraphs(HTMLParser):
    """Text of ``<div class="para">`` and ``<p>``, the inner ones first; listings are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._tags: list[tuple[str, bool]] = []
        self._open: list[list[str]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag in _WITHOUT_END:
            return
        is_paragraph = tag == "p" or (tag == "div" and ("class", "para") in attributes)
        self._tags.append((tag, is_paragraph))
        if is_paragraph:
            self._open.append([])

    def handle_endtag(self, tag: str) -> None:
        while tag not in _WITHOUT_END and self._tags:
            last, is_paragraph = self._tags.pop()
            if is_paragraph:
                self.found.append(" ".join("".join(self._open.pop()).split()))
            if last == tag:
                return

    def handle_data(self, text: str) -> None:
        if self._open and ("pre", False) not in self._tags:
            self._open[-1].append(text)


def read_corpus(html: Path) -> Corpus:
    """Both languages, without reviews."""
    return Corpus(en=read_handbook(html, "en"), zh=read_handbook(html, "zh"), reviews=Reviews([], [], []))


def read_handbook(html: Path, language: str) -> Handbook:
    """What is trained on, and what is not.

    Raises:
        ValueError: the package's text is not that of which the packaged part was held out.
    """
    held_out = (assets.DIRECTORY / f"held-out-{language}.txt").read_text(encoding="utf-8")
    kept_back = held_out.splitlines()
    book = list(paragraphs(sorted((html / LANGUAGES[language]).glob("*.html")), language))
    if kept_back[0] not in book or (missing := set(kept_back) - set(book)):
        raise ValueError(f"{len(missing)} paragraphs of the held-out text are not in {html}: another edition?")
    before = book[: book.index(kept_back[0])]
    train = [paragraph for paragraph in before if paragraph not in set(kept_back)]
    return Handbook("".join(f"{paragraph}\n" for paragraph in train), held_out)


def paragraphs(pages: Iterable[Path], language: str) -> Iterator[str]:
    """Each once."""
    seen = set[str]()
    for path in pages:
        parser = _Paragraphs()
        parser.feed(path.read_text(encoding="utf-8"))
        for text in parser.found:
            if (
                text not in seen
                and len(text) >= SHORTEST
                and (language != "zh" or _chinese_share(text) >= CHINESE_SHARE)
            ):
                seen.add(text)
                yield text


def _chinese_share(text: str) -> float:
    return sum("\u4e00" <= character <= "\u9fff" for character in text) / len(text)
