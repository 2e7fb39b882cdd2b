"""What glmquant itself wrote and somebody handed on, or a killed run left, each with what reads it."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import torch

import glmquant as gq
from glmquant.data.calibration import CalibrationSet
from glmquant.evaluation.baseline_cache import Answers, BaselineCache
from glmquant.evaluation.routing import Routes
from glmquant.evaluation.source import Query
from glmquant.evaluation.stored_baseline import BaselineWriter, open_stored_baseline
from glmquant.glm.config import GlmConfig
from glmquant.onnx_export.save import export_bundle
from glmquant.quantization.directory import quantize_directory
from glmquant.recipe.load import load_recipe
from glmquant.recipe.plan import make_plan
from glmquant.recipe.schema import ExportOptions
from glmquant.reports.comparison import compare_reports
from glmquant.reports.ending import in_short
from glmquant.reports.html import to_html
from glmquant.reports.junit import to_junit
from glmquant.reports.markdown import to_markdown
from glmquant.reports.read import read_report
from glmquant.store.checkpoint import Checkpoint, open_checkpoint
from glmquant.store.hashes import HASHES
from glmquant.store.output import MARKER
from glmquant.store.verify import verify
from glmquant.streaming.resources import Resources
from tests.support.checkpoints import tiny_sparse_config
from tests.support.golden import directory as golden
from tests.support.paths import contents
from tests.support.reports import report

Use = Callable[[Path, Path], object]
SEVERAL: Final = 3
"""Times that small files stand in a subject's list, so that they get their share beside the weights."""


@dataclass(frozen=True)
class Own:
    """A directory below the root, the files of it to damage, and what is done with it, a scratch directory beside."""

    name: str
    files: tuple[str, ...]
    use: Use


def write(root: Path) -> list[Own]:
    """Each in a directory of its name."""
    return [_bundle(root), _report(root), _cache(root), _baseline(root), *_unfinished(root)]


def _bundle(root: Path) -> Own:
    """A prompt is answered with it."""
    out = root / "bundle"
    out.mkdir()
    checkpoint = open_checkpoint(golden("chatglm2-tiny"))
    export_bundle(checkpoint, ExportOptions(max_length=64), out, tokenizer=checkpoint.tokenizer)
    small = ("model.onnx", "genai_config.json", "config.json", "tokenizer.json", "tokenizer_config.json")
    return Own("bundle", (*SEVERAL * small, "model.onnx.data", "glmquant.json"), _answer)


def _answer(directory: Path, _: Path) -> None:
    options = gq.GenerationOptions(max_new_tokens=2)
    "".join(gq.generate(directory, "你好", options=options))


def _report(root: Path) -> Own:
    """A report, shown in every form, and compared with another."""
    (root / "report").mkdir()
    honest = report()
    (root / "report" / "report.json").write_text(honest.to_json(), encoding="utf-8")
    return Own("report", ("report.json",), _show)


def _show(directory: Path, _: Path) -> None:
    read = read_report(directory)
    for form in (to_html, to_markdown, to_junit, in_short, repr):
        form(read)
    read.to_json()
    str(compare_reports([(directory, report()), (directory, read)]))


def _cache(root: Path) -> Own:
    """What the baseline made of a text that meets routed experts, kept by a cache."""
    config, queries = tiny_sparse_config(), [Query(np.array([1, 2, 3]), 2, routed=True)]
    cache = BaselineCache(root / "cache", "fingerprint", config)
    cache.write(queries, _answers(config))
    (name,) = (path.name for path in (root / "cache").iterdir())
    return Own("cache", (name,), lambda directory, _: BaselineCache(directory, "fingerprint", config).read(queries))


def _answers(config: GlmConfig) -> Answers:
    sparse = sum(map(config.is_sparse, range(config.num_hidden_layers)))
    assert config.experts is not None
    chosen = np.zeros((sparse, 3, config.experts.per_token), np.int16)
    chosen[..., 1] = 1
    return Answers([torch.ones(2, config.hidden_size)], Routes.unpacked(torch.from_numpy(chosen), config, [3]))


def _baseline(root: Path) -> Own:
    """What the float side said of a text, stored for a check without it."""
    (root / "baseline").mkdir()
    checkpoint, queries = open_checkpoint(golden("chatglm2-tiny")), [Query(np.array([1, 2, 3]), 2)]
    rows = [torch.ones(2, checkpoint.config.hidden_size)]
    BaselineWriter(root / "baseline" / "float.safetensors", checkpoint).write(queries, Answers(rows))

    def use(directory: Path, _: Path) -> None:
        stored = open_stored_baseline(directory / "float.safetensors")
        stored.read(queries)
        stored.head().dense()
        stored.final_norm()

    return Own("baseline", ("float.safetensors",), use)


def _unfinished(root: Path) -> list[Own]:
    """What a run left that was stopped before its last block; the run that goes on must end with the same bytes. And
    what it wrote at last, verified."""
    shutil.copytree(golden("chatglm2-tiny"), root / "model")
    run = _Run(open_checkpoint(root / "model"))
    run.go_on(root / "finished")
    with pytest.raises(KeyboardInterrupt):
        run.go_on(root / "left" / "out", stop=True)
    expected = contents(root / "finished")

    def go_on(directory: Path, scratch: Path) -> None:
        shutil.copytree(directory / "out.partial", scratch / "out.partial")
        run.go_on(scratch / "out")
        assert contents(scratch / "out") == expected, "a run that went on wrote other bytes"

    left = [f"out.partial/{name}" for name, content in contents(root / "left" / "out.partial").items() if content]
    notes = [f"out.partial/{name}" for name in (MARKER, HASHES)]
    return [
        Own("left", (*left, *SEVERAL * notes), go_on),
        Own("finished", tuple(expected), lambda directory, _: verify(directory)),
    ]


class _Run:
    """Quantizes a small checkpoint, in two blocks' time or in all."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        rules = [
            {"match": "lm_head", "keep": True},
            {"match": "*", "spec": {"bits": 4, "group_size": 32}, "method": {"kind": "gptq"}},
        ]
        self._checkpoint, config = checkpoint, checkpoint.config
        self._plan = make_plan(load_recipe(None, {"rules": rules}), config)
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(3, config.vocab_size - 8, (4, 24), generator=generator)
        self._samples = CalibrationSet(tokens, (), checkpoint.tokenizer.sha256, 0)
        self._last = config.num_hidden_layers - 1

    def go_on(self, out: Path, stop: bool = False) -> None:
        def progress(stage: str, done: int, total: int) -> None:
            if stop and stage == "quantizing" and done == self._last:
                raise KeyboardInterrupt

        quantize_directory(self._checkpoint, self._plan, self._samples, out, Resources(), progress)
