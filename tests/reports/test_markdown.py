from dataclasses import replace

from glmquant.evaluation.gate import Verdict
from glmquant.reports.markdown import to_markdown
from tests.support.reports import report

WITHOUT_TEXT = replace(report(), language=None, texts=(), limits=(), verdict=Verdict.PASS)


def test_markdown_says_everything_that_matters() -> None:
    text = to_markdown(report())
    for words in (
        "# Accuracy check: ❌ fail",
        "- Candidate: onnx, 3.4 GB",
        "- Baseline: chatglm2-6b, 12.5 GB, computed in float32",
        "- Size: 27.2% of the baseline",
        "MatMulNBits accuracy level: 4",
        "onnxruntime 1.32.0",
        "| perplexity\\_ratio of text |",
        "at most 1.5 | ✅ pass |",
        "❌ fail |",
        "❔ inconclusive | the confidence interval contains the limit: 200 examples measured, about 5,577 needed |",
        "496 tokens in 16 windows of: en.txt, zh.txt",
        "| zh.txt |",
        "| top-1 agreement | 100 % | 96.8 (95.2 to 98.3) % |",
        "## Task: reviews",
        "| accuracy drop |  | 2 (-1 to 5) percentage points |",
        "pos\\|好",
    ):
        assert words in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)


def test_markdown_without_limits_or_text() -> None:
    text = to_markdown(WITHOUT_TEXT)
    assert "No limits are set, so nothing is judged." in text
    assert "## Text" not in text


def test_names_cannot_break_the_page() -> None:
    name = "<script>alert(1)</script> | *x*\n# head"
    text = to_markdown(replace(report(), tasks=(replace(report().tasks[0], name=name),)))
    assert "## Task: \\<script\\>alert(1)\\</script\\> \\| \\*x\\* \\# head" in text
