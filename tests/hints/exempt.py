"""Hints that no test follows, and why."""

from typing import Final

Table = tuple[tuple[str, str], ...]

EXEMPT: Final[dict[str, Table]] = {
    "memory that runs out inside ONNX Runtime cannot be had in a test": (
        ("if memory ran out, use a smaller batch or a shorter text", "runtime.model:OnnxModel._run"),
    ),
    "needs lm-evaluation-harness, which the tests of every commit do without": (
        ("lower max_gen_toks, or export with a larger export.max_length", "evaluation.harness:GlmQuantLM._prompt"),
        ("pip install 'glmquant[lm-eval]'", "evaluation.harness:"),
    ),
    "of a helper that two errors share: there is a config.json where only weights are missing": (
        ("did you mean {}? It has a config.json", "store.recognize:without_weights"),
    ),
}
"""By reason: words and place."""

NOT_YET: Final[Table] = ()
"""A test could follow these; write it, and remove the line."""
