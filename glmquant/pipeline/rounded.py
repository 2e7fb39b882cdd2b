"""A float checkpoint quantised on the way to its ONNX bundle: no GPTQ directory is written and read in between."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

from torch import Tensor

from glmquant.errors import CalibrationError
from glmquant.glm.block import Block, Linear
from glmquant.glm.classifier import ClassificationHead
from glmquant.glm.config import GlmConfig, block_groups, head_group, linear_groups
from glmquant.pipeline.block_pass import quantize_block, quantize_linear
from glmquant.pipeline.prepare import float_block, float_head
from glmquant.recipe.plan import resolve_rules
from glmquant.recipe.schema import Recipe
from glmquant.store.ahead import blocks_ahead
from glmquant.store.artifact import manifest_of
from glmquant.store.checkpoint import Checkpoint
from glmquant.store.manifest import GroupRecord, Manifest


def rounds_on_export(checkpoint: Checkpoint, recipe: Recipe) -> bool:
    """Whether the recipe has rules to quantise by, and the checkpoint is not in GPTQ format yet."""
    return checkpoint.quantization != "gptq" and any(rule.spec is not None for rule in recipe.rules)


class RoundedCheckpoint:
    """A checkpoint whose linears are quantised by a recipe's rules, a block at a time, as it is asked for.

    It gives export what a directory that :func:`glmquant.pipeline.quantize.quantize` wrote would give; shapes that
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
                fix="export what `glmquant quantize` writes; without a recipe, `export` takes the checkpoint as it is",
            )
        self._records: dict[str, GroupRecord] = {}
        self._coming: Iterator[tuple[int, Block]] = iter(())

    @property
    def config(self) -> GlmConfig:
        config, head = self._checkpoint.config, head_group(self._checkpoint.config).name
        own_head = not config.num_labels and self._plans[head].spec is not None
        return replace(config, tie_word_embeddings=False) if own_head else config

    def embedding(self) -> Tensor:
        return self._checkpoint.embedding()

    def block(self, layer: int) -> Block:
        """Where blocks are asked for in turn, the next one is read while this one is rounded."""
        config = self._checkpoint.config
        names = [group.name for group in block_groups(config, layer)]
        rounded, outcomes = quantize_block(self._float_block(layer), names, self._plans, config, None)
        self._records |= {outcome.name: outcome.record for outcome in outcomes}
        return rounded

    def final_norm(self) -> Tensor:
        return self._checkpoint.final_norm() if self._checkpoint.config.num_labels else self._head[0]

    def lm_head(self) -> Linear:
        return self._head[1]

    def classification_head(self) -> ClassificationHead:
        """As it would be stored: without a bias of zeros."""
        head = self._checkpoint.classification_head()
        return head if head.is_biased else replace(head, bias_L=None)

    def manifest(self) -> Manifest:
        """Of a bundle made of every block."""
        records = [self._records[name] for name in self._plans]
        return manifest_of(self._checkpoint, recipe=self._recipe.identity(), calibration=None, groups=records)

    def _float_block(self, layer: int) -> Block:
        found = next(self._coming, None)
        if found is None or found[0] != layer:
            self._coming = blocks_ahead(self._read, range(layer, self._checkpoint.config.num_hidden_layers))
            found = next(self._coming)
        if layer == self._checkpoint.config.num_hidden_layers - 1:
            self._coming = iter(())
        return found[1]

    def _read(self, layer: int) -> Block:
        return float_block(self._checkpoint, layer, self._plans, self._recipe.fit)

    @cached_property
    def _head(self) -> tuple[Tensor, Linear]:
        name = head_group(self._checkpoint.config).name
        norm_D, linear = float_head(self._checkpoint, self._plans[name], self._recipe.fit)
        lm_head, outcome = quantize_linear(name, linear, self._plans[name], None)
        self._records[name] = outcome.record
        return norm_D, lm_head
