"""A float checkpoint quantized on the way to its ONNX bundle: no GPTQ directory is written and read in between."""

from dataclasses import replace
from functools import cached_property

from torch import Tensor

from glmquant.errors import CalibrationError
from glmquant.glm.block import Block, Linear
from glmquant.glm.classifier import ClassificationHead
from glmquant.glm.config import GlmConfig, block_groups, head_group, linear_groups
from glmquant.quantization.block_pass import GroupOutcome, require_float
from glmquant.quantization.lazy_matrix import RowwiseMatrix, Squares, relative
from glmquant.quantization.prepare import float_block, float_head
from glmquant.recipe.plan import GroupPlan, resolve_rules
from glmquant.recipe.schema import Recipe
from glmquant.store.artifact import manifest_of
from glmquant.store.checkpoint import Checkpoint
from glmquant.store.manifest import GroupRecord, Manifest


def rounds_on_export(checkpoint: Checkpoint, recipe: Recipe) -> bool:
    """Whether the recipe has rules to quantize by, and the checkpoint is not in GPTQ format yet."""
    return checkpoint.quantization != "gptq" and any(rule.spec is not None for rule in recipe.rules)


class RoundedCheckpoint:
    """A checkpoint whose linears are quantized by a recipe's rules, some rows at a time, as they are asked for.

    It gives export what a directory that :func:`glmquant.quantization.quantize.quantize` wrote would give; shapes that
    cannot be packed in GPTQ's words are no hindrance here.

    Args:
        checkpoint: float, or with its publisher's own int4 or int8 rows.

    Raises:
        CalibrationError: rules that need calibration samples.
    """

    def __init__(self, checkpoint: Checkpoint, recipe: Recipe) -> None:
        self._checkpoint, self._recipe = checkpoint, recipe
        self._plans = resolve_rules(recipe.rules, linear_groups(checkpoint.config))
        fitted = next((name for name, plan in self._plans.items() if plan.needs_hessian), None)
        if fitted is not None or recipe.allocate is not None:
            raise CalibrationError(
                "the recipe is to be fitted to calibration samples, which `export` does not do",
                where="allocate" if fitted is None else f"the rule for {fitted}",
                expected="methods that need no samples, such as rtn",
                hint="export what `glmquant quantize` writes; without a recipe, `export` takes the checkpoint as it is",
            )
        self._squares: dict[str, Squares] = {}

    @property
    def config(self) -> GlmConfig:
        config, head = self._checkpoint.config, head_group(self._checkpoint.config).name
        own_head = not config.num_labels and self._plans[head].spec is not None
        return replace(config, tie_word_embeddings=False) if own_head else config

    def embedding(self) -> Tensor:
        return self._checkpoint.embedding()

    def block(self, layer: int) -> Block:
        """Its linears are quantized as their rows are asked for."""
        config = self._checkpoint.config
        block = float_block(self._checkpoint, layer, self._plans, self._recipe.fit)
        qkv, o, gate_up, down = (group.name for group in block_groups(config, layer))
        return replace(
            block,
            qkv_proj=self._on_demand(qkv, block.qkv_proj),
            o_proj=self._on_demand(o, block.o_proj),
            gate_up_proj=self._on_demand(gate_up, block.gate_up_proj),
            down_proj=self._on_demand(down, block.down_proj),
        )

    def final_norm(self) -> Tensor:
        return self._checkpoint.final_norm() if self._checkpoint.config.num_labels else self._head[0]

    def lm_head(self) -> Linear:
        return self._head[1]

    def classification_head(self) -> ClassificationHead:
        """As it would be stored: without a bias of zeros."""
        head = self._checkpoint.classification_head()
        return head if head.is_biased else replace(head, bias_L=None)

    def manifest(self) -> Manifest:
        """Of a bundle made of every row of every block."""
        return manifest_of(
            self._checkpoint,
            recipe=self._recipe.identity(),
            calibration=None,
            groups=[self._record(name, plan) for name, plan in self._plans.items()],
        )

    def _record(self, name: str, plan: GroupPlan) -> GroupRecord:
        error = None if plan.spec is None else relative(self._squares[name])
        return GroupOutcome(name, plan, error).record

    def _on_demand(self, name: str, linear: Linear) -> Linear:
        plan = self._plans[name]
        if plan.spec is None or plan.method is None:
            return linear
        self._squares[name] = {}
        weight_NK = require_float(name, linear)
        return replace(linear, weight=RowwiseMatrix(weight_NK, plan.spec, plan.method, self._squares[name]))

    @cached_property
    def _head(self) -> tuple[Tensor, Linear]:
        name = head_group(self._checkpoint.config).name
        norm_D, linear = float_head(self._checkpoint, self._plans[name], self._recipe.fit)
        return norm_D, self._on_demand(name, linear)
