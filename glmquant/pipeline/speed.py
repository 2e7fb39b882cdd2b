"""How fast a bundle answers on this machine, and in how much memory: measured in a process that does nothing else.

Shape suffixes: B batch (of one), T tokens.
"""

import logging
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Final

import numpy as np
from pydantic import TypeAdapter, ValidationError

from glmquant.core.files import write_json
from glmquant.core.machine import own_peak_memory
from glmquant.data.sequences import Ids
from glmquant.glm.layouts.hf_config import read_bundle_config
from glmquant.runtime.classify import OnnxClassifier
from glmquant.runtime.model import OnnxModel
from glmquant.runtime.session import is_classifier
from glmquant.store.circumstances import BundleSpeed

log = logging.getLogger("glmquant")

PROMPT_TOKENS: Final = 128
NEW_TOKENS: Final = 32
SECONDS: Final = 20.0
"""After which no further token is generated."""

LONGEST: Final = 600.0
"""Seconds for all of it; a bundle that takes longer is not measured."""

SMALLEST_BUNDLE: Final = 4 << 20
"""Bytes; what a smaller one takes is the interpreter's time, and says nothing of any model."""

PRIME: Final = 7919
"""Makes token ids that differ, the same ones each time."""


def measure_apart(bundle: Path) -> BundleSpeed | None:
    """:func:`measure` in another process; None, with a note in the log, where that does not come to its end, and for a
    bundle of less than :data:`SMALLEST_BUNDLE`."""
    if sum(file.stat().st_size for file in bundle.glob("model.onnx*")) < SMALLEST_BUNDLE or not sys.executable:
        return None
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "speed.json"
        code = "import sys; from glmquant.pipeline.speed import write_measured; write_measured(*sys.argv[1:])"
        command = [sys.executable, "-c", code, str(bundle.resolve()), str(out)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        try:
            subprocess.run(command, env=environment, capture_output=True, timeout=LONGEST, check=True)
            return TypeAdapter(BundleSpeed).validate_json(out.read_bytes())
        except (OSError, subprocess.SubprocessError, ValidationError) as error:
            log.warning("the bundle's speed was not measured: %s", type(error).__name__)
            return None


def write_measured(bundle: str, out: str) -> None:
    """What :func:`measure` says of a bundle, as JSON in the file ``out``."""
    write_json(Path(out), asdict(measure(Path(bundle))))


def measure(bundle: Path) -> BundleSpeed:
    """Reads one prompt, and generates what follows where the bundle does; the peak is that of this process.

    Raises:
        ExportError: a bundle that cannot be opened or run.
    """
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if is_classifier(bundle):
        return _classifier(bundle, threads)
    model = OnnxModel.open(bundle)
    length = max(1, min(PROMPT_TOKENS, model.info.max_length - NEW_TOKENS))
    most = min(NEW_TOKENS, model.info.max_length - length)
    prompt_BT = _tokens(length, model.info.vocab_size)
    model.forward(prompt_BT[:, :1], np.ones((1, 1), np.int64), keep=1)  # the first call allocates
    cache = model.new_cache(1, length + most)
    start = perf_counter()
    logits_BTV = model.forward_with_cache(prompt_BT, np.ones((1, length), np.int64), cache, keep=1)
    read = perf_counter()
    made = 0
    while made < most and perf_counter() - read < SECONDS:
        next_BT = logits_BTV[:, -1:].argmax(-1).astype(np.int64)
        mask = np.ones((1, cache.length + 1), np.int64)
        logits_BTV = model.forward_with_cache(next_BT, mask, cache, keep=1)
        made += 1
    return BundleSpeed(length, read - start, made, perf_counter() - read, own_peak_memory(), threads)


def _classifier(bundle: Path, threads: int) -> BundleSpeed:
    classifier = OnnxClassifier.open(bundle)
    length = min(PROMPT_TOKENS, classifier.max_length)
    tokens_T = _tokens(length, read_bundle_config(bundle / "config.json").vocab_size)[0]
    classifier.logits([tokens_T[:1]])
    start = perf_counter()
    classifier.logits([tokens_T])
    return BundleSpeed(length, perf_counter() - start, 0, 0.0, own_peak_memory(), threads)


def _tokens(count: int, vocabulary: int) -> Ids:
    return ((np.arange(count, dtype=np.int64) * PRIME) % vocabulary)[None]
