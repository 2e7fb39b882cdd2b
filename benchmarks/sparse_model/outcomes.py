"""Rows made and measured, each once; what decides a row is kept beside it."""

import json
import shutil
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from unittest import mock

import numpy as np
import torch

import glmquant
from benchmarks.accuracy.inputs import Inputs
from benchmarks.accuracy.made import key_of, sha256_of
from benchmarks.accuracy.maker import code_sha256
from benchmarks.accuracy.measure import Meter, read_metrics, write_metrics
from benchmarks.accuracy.read_back import Candidate
from benchmarks.sparse_model.rows import LENGTH, Row
from glmquant import api, assets
from glmquant.data.sequences import Ids
from glmquant.data.windows import read_windows
from glmquant.evaluation.metrics import LanguageMetrics
from glmquant.evaluation.routing import LayerRouting, Routes, compare_routes, routes
from glmquant.evaluation.statistics import Interval, mean_interval
from glmquant.glm.tokenizers.tokenizer import load_tokenizer
from glmquant.quantization import expert_pass
from glmquant.recipe.load import load_recipe
from glmquant.recipe.schema import Recipe
from glmquant.runtime.routing import bundle_choices
from glmquant.store.calibration import read_calibration
from glmquant.store.checkpoint import Checkpoint

WINDOWS = 32
SHIPPING = ("onnx_export", "runtime")
"""What decides the routing of a bundle, beside what decides its weights."""
TEXTS = {language: assets.DIRECTORY / f"held-out-{language}.txt" for language in ("en", "zh")}


@dataclass(frozen=True)
class Routed:
    """A layer's routing on all texts.

    Attributes:
        agreement: share of a window's tokens whose set of experts is the float model's.
        float_load, load: tokens that each expert meets.
    """

    agreement: tuple[float, ...]
    float_load: tuple[int, ...]
    load: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Outcome:
    """A row's figures.

    Attributes:
        texts: on each text.
        layers: in each sparse layer.
        shipped: as :attr:`Routed.agreement`, over all layers of the bundle in ONNX Runtime; None where not measured.
    """

    row: Row
    average_bits: float
    texts: dict[str, LanguageMetrics]
    layers: dict[int, Routed]
    shipped: tuple[float, ...] | None = None

    def agreement(self, layer: int | None = None) -> Interval:
        """Of the windows of all texts; over all layers unless one is named."""
        chosen = [self.layers[layer]] if layer is not None else list(self.layers.values())
        rows = zip(*(each.agreement for each in chosen), strict=True)
        return mean_interval(np.array([sum(row) / len(row) for row in rows]), lowest=0, highest=1)

    def shipped_agreement(self) -> Interval | None:
        """Of the windows of all texts, over all layers."""
        return None if self.shipped is None else mean_interval(np.array(self.shipped), lowest=0, highest=1)


class Bench:
    """The float model of ``work``, and what rows make of it."""

    def __init__(self, work: Path) -> None:
        self._inputs = Inputs(work)
        self._meter = Meter(self._inputs, WINDOWS)

    @property
    def checkpoint(self) -> Checkpoint:
        return self._inputs.checkpoint

    @cached_property
    def _windows(self) -> list[Ids]:
        tokenizer = load_tokenizer(self.checkpoint.path, self.checkpoint.config)
        amount = WINDOWS * LENGTH
        texts = [
            read_windows(path, tokenizer, num_tokens=amount, seq_len=LENGTH, place="last") for path in TEXTS.values()
        ]
        return [window for text in texts for window in text.windows]

    @cached_property
    def _float_routes(self) -> Routes:
        return routes(self.checkpoint, self._windows)

    def outcome(self, row: Row) -> Outcome:
        """Kept, or made."""
        place = self._inputs.path("rows") / "".join(letter if letter.isalnum() else "-" for letter in row.name.lower())
        recipe, calibration = load_recipe(None, row.recipe), self._calibration(row.samples)
        identity = {
            "model": self.checkpoint.fingerprint,
            "recipe": recipe.identity(),
            "tokens": read_calibration(calibration).samples.sha256,
            "shared tokens": row.shared_tokens,
            "windows": WINDOWS,
            "code": code_sha256(),
            "shipped": _shipping_sha256() if row.shipped else None,
        }
        key = place / "key.json"
        if not key.exists() or json.loads(key.read_text()) != key_of(identity):
            self._make(row, recipe, calibration, place)
            key.write_text(json.dumps(key_of(identity)))
        return _read(row, place)

    def _calibration(self, samples: int) -> Path:
        """Of the packaged text, a part of what the model was trained on."""
        path = self._inputs.path(f"calibration-{samples}")
        if not path.exists():
            sizes = {"calibration.num_samples": samples, "calibration.seq_len": LENGTH}
            api.calibrate(self.checkpoint, load_recipe(None, sizes), data=assets.CALIBRATION_TEXT, out=path)
        return path

    def _make(self, row: Row, recipe: Recipe, calibration: Path, place: Path) -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        tokens = expert_pass.SHARED_TOKENS if row.shared_tokens is None else row.shared_tokens
        with mock.patch.object(expert_pass, "SHARED_TOKENS", tokens):
            quantized = api.quantize(self.checkpoint, recipe, calibration, out=place / "quantized")
        bits = _average_bits(self.checkpoint, recipe)
        for name, text in TEXTS.items():
            write_metrics(self._meter.measure(Candidate(quantized, bits), text), place / f"{name}.json")
        compared = compare_routes(self._float_routes, routes(quantized, self._windows))
        layers = {each.layer: asdict(_routed(each)) for each in compared}
        shipped = self._shipped(quantized, recipe, place / "bundle") if row.shipped else None
        (place / "row.json").write_text(json.dumps({"bits": bits, "layers": layers, "shipped": shipped}, indent=1))
        shutil.rmtree(place / "quantized")

    def _shipped(self, quantized: Checkpoint, recipe: Recipe, place: Path) -> list[float]:
        """Each window's share of tokens and layers whose experts in the bundle are the float model's."""
        api.export(quantized, recipe, out=place)
        found = bundle_choices(place, self._windows)
        chosen = {layer: [torch.from_numpy(each) for each in rows] for layer, rows in found.items()}
        compared = compare_routes(self._float_routes, Routes(self._float_routes.experts, chosen))
        shutil.rmtree(place)
        agreement: list[float] = np.mean([_routed(each).agreement for each in compared], axis=0).tolist()
        return agreement


def _shipping_sha256() -> str:
    package = Path(glmquant.__file__).parent
    return sha256_of(file for room in SHIPPING for file in sorted((package / room).rglob("*.py")))


def _average_bits(checkpoint: Checkpoint, recipe: Recipe) -> float:
    """Over the weights that are quantized."""
    groups = [group for group in api.inspect(checkpoint, recipe).groups if group.spec is not None]
    return 8 * sum(group.num_bytes for group in groups) / sum(group.rows * group.columns for group in groups)


def _routed(each: LayerRouting) -> Routed:
    agreement = 1 - each.differing_S / each.tokens_S
    return Routed(
        tuple(agreement.tolist()), tuple(each.baseline_load_X.tolist()), tuple(each.candidate_load_X.tolist())
    )


def _read(row: Row, place: Path) -> Outcome:
    values = json.loads((place / "row.json").read_text())
    layers = {int(layer): Routed(**of_layer) for layer, of_layer in values["layers"].items()}
    texts = {name: read_metrics(place / f"{name}.json") for name in TEXTS}
    return Outcome(row, values["bits"], texts, layers, values["shipped"])
