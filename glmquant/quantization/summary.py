"""What a checkpoint is, and what a recipe would make of it, from names and shapes alone."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from glmquant.core.spec import QuantSpec
from glmquant.core.units import size
from glmquant.glm.config import GlmConfig
from glmquant.glm.groups import Unit
from glmquant.glm.names import HEAD, canonical_shapes
from glmquant.quantization.allocate import budget_bytes
from glmquant.quantization.bundle_size import BundleForecast, bundle_forecast
from glmquant.quantization.forecast import Forecast
from glmquant.quantization.text_summary import Problem, TextSummary, describe_text, text_problems
from glmquant.recipe.plan import Plan
from glmquant.store.checkpoint import Checkpoint, Quantization
from glmquant.store.manifest import Manifest

READERS = {"fused": "transformers", "split": "GPTQModel"}
FLOAT_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class GroupSummary:
    """One unit of the recipe's rules: ``[rows, columns]``, and its spec where the recipe quantizes it.

    Attributes:
        rows: of routed experts, as many rows of what they read as they have weights.
    """

    name: str
    rows: int
    columns: int
    spec: QuantSpec | None
    num_bytes: int


@dataclass(frozen=True)
class AdapterSummary:
    """A LoRA adapter at a glance.

    Attributes:
        ranks: of its additions, each once.
        targets: last words of the adapted modules' names, as the adapter has them.
        num_modules: how many modules it adds to.
        num_layers: blocks of the model in which it changes something.
        saved: tensors that were trained as a whole.
        notes: what is worth a look.
    """

    name: str
    ranks: tuple[int, ...]
    targets: tuple[str, ...]
    num_modules: int
    num_layers: int
    saved: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ModelSummary:
    """A checkpoint at a glance.

    Attributes:
        num_parameters: weights, norms and biases of the model.
        num_bytes: of its tensors on disk.
        quantization: how its linear layers are quantized; None where they are float.
        readers: software that loads a quantized artifact as it is laid out; empty for what is not in GPTQ format.
        groups: what the recipe makes of each linear group; empty without a recipe.
        average_bits: stored bits a weight over those groups, scales and zero points included; None without a recipe.
        bundle: size and memory of the bundle that the recipe makes; None without a recipe.
        forecast: time, memory and disk that the recipe will take on this machine; None where nobody asked.
        adapter: the LoRA adapter that is merged; None where there is none.
        text: its tokenizer, chat template and generation settings; None where one of them cannot be used.
        problems: why the checkpoint cannot be used as it is; empty where it can.
    """

    path: str
    config: GlmConfig
    quantization: Quantization | None
    num_parameters: int
    num_bytes: int
    readers: tuple[str, ...]
    groups: tuple[GroupSummary, ...]
    average_bits: float | None
    bundle: BundleForecast | None = None
    forecast: Forecast | None = None
    adapter: AdapterSummary | None = None
    text: TextSummary | None = None
    problems: tuple[Problem, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def __repr__(self) -> str:
        bits = "" if self.average_bits is None else f", {self.average_bits:.4g} bits a weight by the recipe"
        return f"<ModelSummary {self.path}: {self.num_parameters:,} parameters, {size(self.num_bytes)}{bits}>"


def summarize(checkpoint: Checkpoint, plan: Plan | None = None) -> ModelSummary:
    """What a checkpoint is, what a plan would make of it, and what is wrong with its text files; reads no weight."""
    problems = text_problems(checkpoint)
    groups = tuple(_summary(unit, plan[unit.name].spec, plan.config) for unit in plan.units) if plan else ()
    weights = sum(group.rows * group.columns for group in groups)
    return ModelSummary(
        path=str(checkpoint.path),
        config=checkpoint.config,
        quantization=checkpoint.quantization,
        num_parameters=num_parameters(checkpoint.config),
        num_bytes=checkpoint.tensor_bytes,
        readers=_readers(checkpoint),
        groups=groups,
        average_bits=8 * sum(group.num_bytes for group in groups) / weights if groups else None,
        bundle=None if plan is None else bundle_forecast(plan),
        text=None if problems else describe_text(checkpoint),
        problems=problems,
        adapter=_adapter(checkpoint),
    )


def _adapter(checkpoint: Checkpoint) -> AdapterSummary | None:
    adapter = checkpoint.adapter
    if adapter is None:
        return None
    layers = {name.split(".")[2] for name in checkpoint.adapted_tensors if name.startswith("model.layers.")}
    return AdapterSummary(
        name=adapter.name,
        ranks=tuple(sorted({addition.rank for addition in adapter.additions.values()})),
        targets=tuple(sorted({module.rpartition(".")[2] for module in adapter.additions})),
        num_modules=len(adapter.additions),
        num_layers=len(layers),
        saved=tuple(sorted(adapter.copies)),
        notes=checkpoint.adapter_notes,
    )


def _readers(checkpoint: Checkpoint) -> tuple[str, ...]:
    if checkpoint.quantization != "gptq":
        return ()
    manifest = checkpoint.manifest
    layout = manifest.recipe.get("store", {}).get("layout") if manifest else None
    reader = READERS.get(layout) if isinstance(layout, str) else None
    if manifest is None or reader is None or (reader == "transformers" and not _is_uniform(manifest)):
        return ("glmquant",)
    return ("glmquant", reader)


def _is_uniform(manifest: Manifest) -> bool:
    """transformers knows one spec for all linear layers of blocks; a quantized head it replaces by random weights."""
    head = {record.spec for record in manifest.groups if record.name == "lm_head"}
    blocks = {record.spec for record in manifest.groups if record.name != "lm_head"}
    return head <= {None} and len(blocks) == 1 and None not in blocks


def num_parameters(config: GlmConfig) -> int:
    """Weights, norms and biases of the model; a tied head counts once, a classifier's head without its bias."""
    shapes = canonical_shapes(config)
    if config.tie_word_embeddings:
        shapes.pop(HEAD, None)
    return sum(math.prod(shape) for shape in shapes.values()) + config.num_labels * config.hidden_size


def stored_bytes(summary: ModelSummary, plan: Plan) -> int:
    """Of all linear layers once they are quantized; where bits are allocated, as far as budget and choices go."""
    if plan.recipe.allocate is None:
        return sum(group.num_bytes for group in summary.groups)
    chosen = [unit for unit in plan.units if plan[unit.name].alternatives]
    others = [group.num_bytes for group in summary.groups if not plan[group.name].alternatives]
    largest = sum(max(unit.stored_bytes(spec) for spec in plan[unit.name].choices) for unit in chosen)
    return sum(others) + min(int(budget_bytes(plan.recipe.allocate, chosen)), largest)


def _summary(unit: Unit, spec: QuantSpec | None, config: GlmConfig) -> GroupSummary:
    size = unit.num_weights * FLOAT_BYTES[config.float_dtype] if spec is None else unit.stored_bytes(spec)
    return GroupSummary(unit.name, unit.num_weights // unit.columns, unit.columns, spec, size)
