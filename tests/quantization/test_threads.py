"""What is written does not depend on how many threads write it."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from glmquant.core.arithmetic import arithmetic
from glmquant.core.elementwise import sigmoid, silu
from glmquant.core.parallel import one_thread
from glmquant.data.calibration import CalibrationSet
from glmquant.evaluation.baseline_source import BaselineSource
from glmquant.evaluation.onnx_source import OnnxSource
from glmquant.evaluation.source import Logits, Query
from glmquant.glm.config import GlmConfig
from glmquant.onnx_export.save import export_bundle
from glmquant.quantization.quantize import quantize
from glmquant.recipe.load import load_recipe
from glmquant.recipe.plan import make_plan
from glmquant.recipe.schema import ExportOptions
from glmquant.runtime.model import OnnxModel
from glmquant.store.checkpoint import Checkpoint, open_checkpoint
from tests.support.checkpoints import float_tensors, tiny_config, tiny_sparse_config, write_checkpoint
from tests.support.paths import contents
from tests.support.threads import threads

THREADS = (1, 2, 3, 4)
SAMPLES, LENGTH = 19, 64
"""Enough tokens for torch to deal them to several threads, and no whole number of vectors for each."""

DENSE = ("int8-rtn", "int4-g128-rtn", "int4-g128-gptq-fast", "int4-g128-gptq", "int4-auto-4.25", "demo")
SPARSE = ("moe-int4-g128", "moe-int4-g128-gptq", "moe-int2-g64-gptq")


def dense() -> GlmConfig:
    """Wider than a corner of the Cholesky factor, of sizes that threads cannot share evenly in vectors."""
    return replace(
        tiny_config(),
        max_position_embeddings=640,
        hidden_size=272,
        intermediate_size=560,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=80,
        rotary_dim=32,
    )


def sparse(width: int = 272) -> GlmConfig:
    config = tiny_sparse_config()
    assert config.experts is not None
    experts = replace(config.experts, intermediate_size=width)
    return replace(config, max_position_embeddings=640, hidden_size=width, intermediate_size=560, experts=experts)


def scaled(config: GlmConfig) -> dict[str, Tensor]:
    return {name: tensor * 0.1 if tensor.ndim > 1 else tensor for name, tensor in float_tensors(config).items()}


@pytest.mark.parametrize("counts", [(1, 3), pytest.param(THREADS, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("config", "recipe"), [(dense(), name) for name in DENSE] + [(sparse(), name) for name in SPARSE]
)
def test_any_number_of_threads_writes_the_same_bytes(
    tmp_path: Path, config: GlmConfig, recipe: str, counts: tuple[int, ...]
) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "model", config, scaled(config)))
    tokens = torch.randint(0, config.vocab_size, (SAMPLES, LENGTH), generator=torch.Generator().manual_seed(1))
    plan = make_plan(load_recipe(recipe, {}), config)
    for count in counts:
        (tmp_path / str(count)).mkdir()
        with threads(count):
            quantize(checkpoint, plan, CalibrationSet(tokens, (), "0" * 64, 0), tmp_path / str(count))
    assert open_checkpoint(tmp_path / "1").manifest.arithmetic == arithmetic(torch.float32)  # type: ignore[union-attr]
    one, *others = (contents(tmp_path / str(count)) for count in counts)
    assert all(other == one for other in others)


def wide_vocabulary(config: GlmConfig) -> GlmConfig:
    """Enough columns for each thread; ONNX Runtime adds up fewer than 128 in another order."""
    return replace(config, vocab_size=1024)


@pytest.mark.parametrize(
    ("config", "recipe", "level"),
    [
        (dense(), "int8-rtn", 4),
        (dense(), "int4-g128-rtn", 4),
        (dense(), None, 4),
        (wide_vocabulary(sparse(384)), "moe-int4-g128", 0),
        (sparse(), None, 4),
    ],
)
def test_both_sides_of_a_check_give_the_same_logits(
    tmp_path: Path, config: GlmConfig, recipe: str | None, level: Literal[0, 4]
) -> None:
    """A recipe of None leaves everything float."""
    checkpoint, bundle = exported(tmp_path, config, recipe, level)
    found = []
    for count in THREADS:
        with threads(count):
            baseline = list(BaselineSource(checkpoint).logits(queries(config)))
        found.append([logits.tobytes() for logits in (*baseline, *candidate(bundle, config, count))])
    assert all(each == found[0] for each in found)


def test_routed_experts_in_integers_differ_by_rounding_alone(tmp_path: Path) -> None:
    """With AVX-512 VNNI, the last bits depend on the number of ONNX Runtime's threads (docs/scale-out.md)."""
    config = wide_vocabulary(sparse(384))
    _, bundle = exported(tmp_path, config, "moe-int4-g128", 4)
    alone, *several = (candidate(bundle, config, count) for count in THREADS)
    for found in several:
        for one, other in zip(alone, found, strict=True):
            assert np.abs(one - other).max() <= 1e-6 * np.abs(one).max()


def exported(tmp_path: Path, config: GlmConfig, recipe: str | None, level: Literal[0, 4]) -> tuple[Checkpoint, Path]:
    checkpoint, bundle = (
        open_checkpoint(write_checkpoint(tmp_path / "model", config, scaled(config))),
        tmp_path / "onnx",
    )
    bundle.mkdir()
    options, source = ExportOptions(max_length=640, accuracy_level=level), checkpoint
    if recipe is not None:
        (tmp_path / "quantized").mkdir()
        quantize(checkpoint, make_plan(load_recipe(recipe, {}), config), None, tmp_path / "quantized")
        source = open_checkpoint(tmp_path / "quantized")
    export_bundle(source, options, bundle)
    return checkpoint, bundle


def queries(config: GlmConfig) -> list[Query]:
    generator = torch.Generator().manual_seed(1)
    return [
        Query(torch.randint(0, config.vocab_size, (length,), generator=generator).numpy(), length)
        for length in (600, 511, 511, 37, 1)
    ]


def candidate(bundle: Path, config: GlmConfig, count: int) -> list[Logits]:
    return list(OnnxSource(OnnxModel.open(bundle, num_threads=count)).logits(queries(config)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gates_are_torchs_and_do_not_depend_on_threads(dtype: torch.dtype) -> None:
    x = torch.randn(2, 1001, 1003, generator=torch.Generator().manual_seed(0)).to(dtype)
    gated, wide = x.chunk(2, dim=-1)[0], x[0]
    found = []
    for count in THREADS:
        with threads(count):
            found.append((silu(gated), sigmoid(wide)))
    assert all(torch.equal(a, b) for each in found for a, b in zip(each, found[0], strict=True))
    torch.testing.assert_close(found[0][0], functional.silu(gated))
    torch.testing.assert_close(found[0][1], torch.sigmoid(wide))


def test_gradients_pass_through_a_gate() -> None:
    x = torch.tensor([[-100.0, 0.0, 3.0]], requires_grad=True)
    silu(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_one_thread_lasts_as_long_as_its_context() -> None:
    with threads(3):
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
