"""A float checkpoint quantized on the way to its ONNX bundle: no GPTQ directory is written and read in between."""

from dataclasses import replace
from functools import cached_property
from statistics import mean

import torch
from torch import Tensor

from glmquant.core.arithmetic import arithmetic
from glmquant.errors import CalibrationError
from glmquant.glm.block import Block
from glmquant.glm.config import GlmConfig
from glmquant.glm.groups import head_group
from glmquant.glm.linear import Linear
from glmquant.glm.parts import Part
from glmquant.quantization.lazy_matrix import LazyMatrix, Squares, relative
from glmquant.quantization.linear_pass import GroupOutcome, require_float
from glmquant.quantization.prepare import float_block, float_head
from glmquant.recipe.plan import GroupPlan, Plan
from glmquant.store.artifact import manifest_of
from glmquant.store.checkpoint import Checkpoint
from glmquant.store.manifest import GroupRecord, Manifest


def quantizes_on_export(checkpoint: Checkpoint, plan: Plan) -> bool:
    """Whether the recipe has rules to quantize by, and the checkpoint is not in GPTQ format yet."""
    return checkpoint.quantization != "gptq" and any(rule.spec is not None for rule in plan.recipe.rules)


class QuantizedOnTheFly:
    """A checkpoint whose linear layers are quantized by a plan, some rows at a time, as they are asked for.

    A :class:`glmquant.glm.model.ModelSource`. It gives export what a directory that
    :func:`glmquant.quantization.quantize.quantize` wrote would give; shapes that cannot be packed in GPTQ's words are
    no hindrance here.

    Args:
        checkpoint: float, or with its publisher's own int4 or int8 rows.

    Raises:
        CalibrationError: rules that need calibration samples.
    """

    def __init__(self, checkpoint: Checkpoint, plan: Plan) -> None:
        self._checkpoint, self._plan = checkpoint, plan
        if plan.needs_samples:
            raise CalibrationError(
                "the recipe is to be fitted to calibration samples, which an export does not do",
                where="allocate" if plan.first_fitted is None else f"the rule for {plan.first_fitted}",
                expected="methods that need no samples, such as rtn",
                hint="quantize first, and export what that gives; without a recipe a checkpoint is exported as it is",
            )
        self._squares: dict[str, dict[str, Squares]] = {}

    @property
    def config(self) -> GlmConfig:
        config, head = self._checkpoint.config, head_group(self._checkpoint.config).name
        own_head = not config.num_labels and self._plan[head].spec is not None
        return replace(config, tie_word_embeddings=False) if own_head else config

    def embedding(self) -> Tensor:
        return self._checkpoint.embedding()

    def block(self, layer: int) -> Block:
        """Its linear layers are quantized as their rows are asked for."""
        block = float_block(self._checkpoint, layer, self._plan)
        lazy = {name: self._on_demand(f"layers.{layer}.{name}", linear) for name, linear in block.linears().items()}
        parts = [self._with_experts(part) for part in block.with_linears(lazy).parts]
        return Block(*parts)

    def _with_experts(self, part: Part) -> Part:
        """Routed experts are quantized as they are read."""
        experts = part.experts
        if experts is None:
            return part
        load, unit = experts.load, experts.unit

        def quantized(expert: int, name: str) -> Linear:
            return self._on_demand(unit, load(expert, name), f"{expert}.{name}")

        return replace(part, experts=replace(experts, load=quantized))

    def final_norm(self) -> Tensor:
        return self._checkpoint.final_norm() if self._checkpoint.config.num_labels else self._head[0]

    def head(self) -> Linear:
        """``lm_head``; a classifier's head as it would be stored, without a bias of zeros."""
        if not self._checkpoint.config.num_labels:
            return self._head[1]
        head = self._checkpoint.classification_head()
        return head.linear if head.is_biased else replace(head.linear, bias_N=None)

    def manifest(self) -> Manifest:
        """Of a bundle made of every row of every block."""
        return manifest_of(
            self._checkpoint,
            recipe=self._plan.recipe.identity(),
            calibration=None,
            groups=[self._record(name, plan) for name, plan in self._plan.by_group.items()],
            limits=self._plan.recipe.check.limits,
            arithmetic=arithmetic(torch.float32),
        )

    def _record(self, name: str, plan: GroupPlan) -> GroupRecord:
        error = None if plan.spec is None else mean([relative(each) for each in self._squares[name].values()])
        return GroupOutcome(name, plan, error).record

    def _on_demand(self, unit: str, linear: Linear, member: str = "") -> Linear:
        plan = self._plan[unit]
        if plan.spec is None or plan.method is None:
            return linear
        squares: Squares = {}
        self._squares.setdefault(unit, {})[member] = squares
        weight_NK = require_float(unit, linear)
        return replace(linear, weight=LazyMatrix(weight_NK, plan.spec, plan.method, squares))

    @cached_property
    def _head(self) -> tuple[Tensor, Linear]:
        norm_D, linear = float_head(self._checkpoint, self._plan)
        return norm_D, self._on_demand(head_group(self._checkpoint.config).name, linear)
