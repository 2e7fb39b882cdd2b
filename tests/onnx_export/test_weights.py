"""Shape suffixes: N output rows, K input columns, B blocks along K."""

import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glmquant.core.spec import QuantSpec
from glmquant.errors import ExportError
from glmquant.glm.block import Block
from glmquant.glm.linear import Linear
from glmquant.methods.rtn import Rtn
from glmquant.onnx_export.blocks import block_size
from glmquant.onnx_export.matrices import PackedMatrix, PackedWriter
from glmquant.onnx_export.weights import WeightWriter, store_model
from glmquant.onnx_export.weights_file import WeightsFile
from tests.support.models import TINY, MemorySource, random_source


def read(path: Path, tensor) -> np.ndarray:
    dtype = {"FLOAT": np.float32, "FLOAT16": np.float16, "UINT8": np.uint8}[tensor.dtype.name]
    count = tensor.length // np.dtype(dtype).itemsize
    return np.fromfile(path, dtype, count, offset=tensor.offset).reshape(tensor.shape.numpy())


def element(path: Path, matrix: PackedMatrix, n: int, k: int) -> float:
    """One weight, read as the operator's documentation says."""
    bits, size = matrix.bits, matrix.block_size
    row = read(path, matrix.codes)[n].reshape(-1)
    bit = k * bits
    code = (int(row[bit // 8]) >> (bit % 8)) & (2**bits - 1)
    zero = 2 ** (bits - 1)
    block = k // size
    if matrix.zero_points is not None:
        bit = block * bits
        zero = (int(read(path, matrix.zero_points)[n, bit // 8]) >> (bit % 8)) & (2**bits - 1)
    return (code - zero) * float(read(path, matrix.scales)[n, block])


@settings(max_examples=40, deadline=None)
@given(
    bits=st.sampled_from([2, 4, 8]),
    group=st.sampled_from([-1, 16, 32, 128, 256, 512]),
    symmetric=st.booleans(),
    half_columns=st.integers(4, 300),
    seed=st.integers(0, 10**6),
    embedding=st.booleans(),
)
def test_packed_matrix_is_the_quantized_one(
    tmp_path_factory, bits, group, symmetric, half_columns, seed, embedding
) -> None:
    spec = QuantSpec(bits, group, symmetric)
    weight = torch.randn(3, 4 * half_columns, generator=torch.Generator().manual_seed(seed))
    quant = Rtn().quantize(weight, spec, None)
    path = tmp_path_factory.mktemp("weights") / "w"
    with WeightsFile(path) as file:
        writer = WeightWriter(file, torch.float32, PackedWriter(file, torch.float32))
        matrix = writer.embedding(weight, spec) if embedding else writer.linear("x", Linear(quant)).weight
    assert isinstance(matrix, PackedMatrix)
    expected = quant.dequantize()
    for k in {0, 15, 4 * half_columns - 1, *range(0, 4 * half_columns, 37)}:
        for n in range(3):
            assert element(path, matrix, n, k) == pytest.approx(expected[n, k].item(), rel=1e-6, abs=0)


def test_blocks_are_no_wider_than_the_kernels_take() -> None:
    sizes = {group: block_size(QuantSpec(4, group), 8192) for group in (16, 128, 256, 512, 4096, -1)}
    assert sizes == {16: 16, 128: 128, 256: 256, 512: 128, 4096: 128, -1: 128}


def test_float_linears_are_transposed_in_pieces(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("glmquant.onnx_export.matrices.PIECE_ELEMENTS", 12)
    weight = torch.arange(35.0).view(5, 7)
    with WeightsFile(tmp_path / "w") as file:
        stored = WeightWriter(file, torch.float32, PackedWriter(file, torch.float32)).linear(
            "x", Linear(weight, torch.ones(5))
        )
    assert np.array_equal(read(tmp_path / "w", stored.weight), weight.T.numpy())
    assert read(tmp_path / "w", stored.bias).tolist() == [1.0] * 5


@pytest.mark.parametrize("value", [1e5, float("inf"), float("nan")])
def test_a_value_float16_cannot_hold_is_named(tmp_path, value) -> None:
    source = random_source()
    source.blocks[1].linears()["mlp.down_proj"].weight[3, 4] = value
    with WeightsFile(tmp_path / "w") as file, pytest.raises(ExportError, match=r"layers\.1\.mlp\.down_proj\.weight"):
        store_model(
            source, WeightWriter(file, torch.float16, PackedWriter(file, torch.float16)), embedding=None, length=8
        )


class CountingSource(MemorySource):
    """Makes each block anew, and notes how many earlier ones are still alive when it does."""

    def block(self, layer: int) -> Block:
        self.alive.append(sum(ref() is not None for ref in self.refs))
        fresh = random_source(replace(TINY, num_hidden_layers=1), seed=layer).blocks[0]
        self.refs.extend(weakref.ref(linear.weight) for linear in fresh.linears().values())
        return fresh


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_one_block_is_in_memory_while_the_next_one_loads(tmp_path, dtype) -> None:
    config = replace(TINY, num_hidden_layers=5)
    base = random_source(replace(TINY, num_hidden_layers=0))
    source = CountingSource(config, (), base.embedding_VD, base.norm_D, base.output_head)
    object.__setattr__(source, "alive", [])
    object.__setattr__(source, "refs", [])
    calls = []
    with WeightsFile(tmp_path / "w") as file:
        store_model(
            source,
            WeightWriter(file, dtype, PackedWriter(file, dtype)),
            embedding=None,
            length=8,
            progress=lambda done, total: calls.append((done, total)),
        )
    assert len(source.alive) == 5
    assert max(source.alive) <= 4  # the four linears of the block at work, or none if that is done already
    assert calls == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_pieces_of_a_large_embedding_are_the_whole(tmp_path, monkeypatch) -> None:
    weight = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    spec = QuantSpec(4, 16)
    with WeightsFile(tmp_path / "whole") as file:
        WeightWriter(file, torch.float16, PackedWriter(file, torch.float16)).embedding(weight, spec)
    monkeypatch.setattr("glmquant.onnx_export.matrices.PIECE_ELEMENTS", 32 * 7)
    monkeypatch.setattr("glmquant.core.parallel.STRIP_ELEMENTS", 32 * 3)
    with WeightsFile(tmp_path / "pieces") as file:
        WeightWriter(file, torch.float16, PackedWriter(file, torch.float16)).embedding(weight, spec)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "pieces").read_bytes()
