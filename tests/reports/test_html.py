import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from glmquant.core.spec import QuantSpec
from glmquant.evaluation.gate import Verdict
from glmquant.evaluation.metrics import Guess, WorstToken
from glmquant.evaluation.results import AccuracyReport
from glmquant.reports.html import to_html
from glmquant.store.manifest import GroupRecord
from tests.support.reports import report

EVIL = "<script>alert(1)</script>&\"'"
VOID = {"meta"}


def full() -> AccuracyReport:
    """A report with everything a page can show."""
    kinds = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
    groups = [
        GroupRecord(f"layers.{layer}.{kind}", QuantSpec(4, 128), "gptq", 1e-3 * (i + 1), 1e-4 * (layer + 1))
        for layer in range(3)
        for i, kind in enumerate(kinds)
    ]
    groups[2] = GroupRecord(groups[2].name)
    groups.append(GroupRecord("lm_head", QuantSpec(8, 128, symmetric=False), "rtn", 1e-6, None))
    whole = report()
    assert whole.language is not None
    worst = WorstToken("en.txt", "before " + EVIL, " ", 1.5, (Guess("\n", 0.6),), (Guess("", 0.5),), 0.1, 0.05)
    return replace(
        whole,
        setting=replace(whole.setting, groups=tuple(groups)),
        language=replace(whole.language, worst=(worst,)),
    )


class WellFormed(HTMLParser):
    """Collects elements and text; fails on a tag that is closed in the wrong order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(page: str) -> WellFormed:
    parser = WellFormed()
    parser.feed(page)
    assert parser.open == []
    return parser


def drawings(page: str) -> list[str]:
    return re.findall(r'aria-label="([^"]*)"', page)


def test_the_page_shows_everything() -> None:
    page = to_html(full(), [replace(full(), verdict=Verdict.PASS)])
    labels = drawings(page)
    for name in (
        "KL divergence along the text",
        "Quality against size",
        "Error and bits of each layer",
        "Confusion matrix, baseline",
        "Confusion matrix, candidate",
    ):
        assert labels.count(name) == 1
    assert sum("at most" in label for label in labels) == 3
    words = parsed(page).text
    for name in ("failed", "layers.0.mlp.gate_up_proj: kept float", "4 bits, group 128, gptq", "⏎", "reviews"):
        assert name in words


def test_the_page_needs_nothing_from_outside() -> None:
    page = parsed(to_html(full()))
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object"}
    assert not any(name in attributes for _, attributes in page.elements for name in ("src", "href", "onload"))
    assert "url(" not in to_html(full())


def test_names_and_text_cannot_break_the_page() -> None:
    whole = full()
    candidate = replace(whole.setting.candidate, name=EVIL)
    task = replace(whole.tasks[0], name=EVIL, labels=(EVIL, "b"))
    page = to_html(replace(whole, setting=replace(whole.setting, candidate=candidate), tasks=(task,)))
    assert "<script" not in page
    assert EVIL in parsed(page).text


@pytest.mark.parametrize(
    "part",
    [
        {"language": None, "texts": ()},
        {"tasks": ()},
        {"limits": ()},
        {"language": None, "texts": (), "tasks": (), "limits": ()},
    ],
)
def test_parts_may_be_missing(part: dict[str, object]) -> None:
    assert "<h1>" in to_html(replace(report(), **part), [report()])  # type: ignore[arg-type]
