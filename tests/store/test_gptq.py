"""The GPTQ format against an oracle that reads one weight at a time, by the format's own description."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from glmquant.core.packed_tensor import PackedTensor
from glmquant.core.qtensor import QuantTensor
from glmquant.core.spec import WHOLE_ROW, QuantSpec
from glmquant.errors import CheckpointError, QuantizationError
from glmquant.store.gptq import GptqFormat, GptqLinear, Version, decode, encode, locate_linear
from glmquant.store.safetensors_file import read_safetensors, write_safetensors
from glmquant.store.tensors import StoredTensor
from tests.support.checkpoints import encoded, random_quantized

SPECS = st.builds(QuantSpec, st.sampled_from([2, 4, 8]), st.sampled_from([16, 32, 128, WHOLE_ROW]), st.booleans())
VERSIONS: tuple[Version, ...] = ("gptq", "gptq_v2")


def weight_by_element(words: dict[str, Tensor], bits: int, version: str, n: int, k: int) -> float:
    per_word, mask = 32 // bits, 2**bits - 1
    group = int(words["g_idx"][k])
    code = int(words["qweight"][k // per_word, n]) >> (bits * (k % per_word)) & mask
    zero = int(words["qzeros"][group, n // per_word]) >> (bits * (n % per_word)) & mask
    if version == "gptq":
        zero = (zero + 1) & mask
    return (code - zero) * float(words["scales"][group, n])


@settings(max_examples=40, deadline=None)
@given(SPECS, st.sampled_from(VERSIONS), st.sampled_from([16, 32]), st.sampled_from([16, 48, 160]), st.integers(0, 999))
def test_encoded_weights_by_element(spec: QuantSpec, version: Version, rows: int, columns: int, seed: int) -> None:
    quantized = random_quantized(rows, columns, spec, seed)
    words = encoded(quantized, version, name="w")
    packed = encoded(PackedTensor.of(quantized), version, name="w")
    assert all(torch.equal(packed[suffix], tensor) for suffix, tensor in words.items())
    groups = spec.num_groups(columns)
    described = {name: (tensor.dtype, tensor.shape) for name, tensor in encode(quantized, version, name="w").items()}
    assert described == {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in words.items()}
    assert described == {
        "qweight": (torch.int32, (columns * spec.bits // 32, rows)),
        "qzeros": (torch.int32, (groups, rows * spec.bits // 32)),
        "scales": (torch.float16, (groups, rows)),
        "g_idx": (torch.int32, (columns,)),
    }
    weights = quantized.dequantize()
    generator = torch.Generator().manual_seed(seed)
    for _ in range(60):
        n, k = (int(torch.randint(0, size, (), generator=generator)) for size in (rows, columns))
        assert weight_by_element(words, spec.bits, version, n, k) == pytest.approx(float(weights[n, k]), rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(SPECS, st.sampled_from(VERSIONS), st.sampled_from([16, 32]), st.sampled_from([16, 48, 160]), st.integers(0, 999))
def test_decoding_is_the_inverse(spec: QuantSpec, version: Version, rows: int, columns: int, seed: int) -> None:
    quantized = random_quantized(rows, columns, spec, seed)
    again = decode(encoded(quantized, version, name="w"), spec, version)
    assert again.spec == spec
    assert torch.equal(again.codes_NK, quantized.codes_NK)
    assert torch.equal(again.zeros_NG, quantized.zeros_NG)
    assert torch.equal(again.scales_NG, quantized.scales_NG)


@pytest.mark.parametrize(("bits", "word"), [(2, 0x55555555), (4, 0x77777777), (8, 0x7F7F7F7F)])
def test_symmetric_zero_points_of_v1(bits: int, word: int) -> None:
    words = encoded(random_quantized(32, 32, QuantSpec(bits, 32)), "gptq", name="w")
    assert (words["qzeros"] == word).all()


def test_v1_wraps_a_zero_point_of_zero_within_its_own_bits() -> None:
    quantized = random_quantized(8, 32, QuantSpec(4, 32, symmetric=False))
    quantized.zeros_NG[:, 0] = torch.tensor([5, 0, 1, 0, 15, 0, 0, 2], dtype=torch.uint8)
    words = encoded(quantized, "gptq", name="w")
    assert words["qzeros"].item() % 2**32 == 0x1FFEF0F4
    assert torch.equal(decode(words, quantized.spec, "gptq").zeros_NG, quantized.zeros_NG)


def test_whoever_has_all_zero_points_in_the_middle_is_symmetric() -> None:
    words = encoded(random_quantized(16, 32, QuantSpec(4, 16)), "gptq_v2", name="w")
    assert decode(words, QuantSpec(4, 16, symmetric=False), "gptq_v2").spec.symmetric


@pytest.mark.parametrize(("rows", "columns", "what"), [(12, 64, "12 output rows"), (64, 20, "20 input columns")])
def test_shapes_the_format_cannot_hold(rows: int, columns: int, what: str) -> None:
    with pytest.raises(QuantizationError, match=rf"layers\.0\.o has {what}; at 4 bits"):
        encoded(random_quantized(rows, columns, QuantSpec(4, 16)), "gptq", name="layers.0.o")


def on_disk(directory: Path, words: dict[str, Tensor]) -> dict[str, StoredTensor]:
    path = directory / "model.safetensors"
    path.unlink(missing_ok=True)
    write_safetensors(path, {f"m.{suffix}": tensor for suffix, tensor in words.items()})
    return read_safetensors(path)


def locate(directory: Path, words: dict[str, Tensor], shape: tuple[int, int], usual: int = 128) -> GptqLinear:
    return locate_linear(on_disk(directory, words), "m", shape, GptqFormat("gptq_v2", usual))


@settings(max_examples=40, deadline=None)
@given(SPECS, st.sampled_from([16, 48, 160, 272]), st.sampled_from([16, 128, WHOLE_ROW, 96]))
def test_bits_and_groups_follow_from_the_shapes(
    tmp_path_factory: pytest.TempPathFactory, spec: QuantSpec, columns: int, usual: int
) -> None:
    quantized = random_quantized(32, columns, spec)
    linear = locate(tmp_path_factory.mktemp("gptq"), encoded(quantized, "gptq_v2", name="m"), (32, columns), usual)
    assert linear.spec.bits == spec.bits
    assert linear.spec.num_groups(columns) == spec.num_groups(columns)
    again: QuantTensor = linear.read(0, 32)
    assert torch.equal(again.dequantize(), quantized.dequantize())


def test_the_usual_group_size_names_a_row_of_one_group(tmp_path: Path) -> None:
    words = encoded(random_quantized(32, 64, QuantSpec(4, WHOLE_ROW)), "gptq_v2", name="m")
    assert locate(tmp_path, words, (32, 64), 128).spec.group_size == 128
    assert locate(tmp_path, words, (32, 64), 32).spec.group_size == WHOLE_ROW


GOOD = encoded(random_quantized(32, 64, QuantSpec(4, 16)), "gptq_v2", name="m")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qweight": GOOD["qweight"][:5]}, "2, 4 or 8 bits"),
        ({"qweight": GOOD["qweight"][:, :16]}, r"m\.qweight is torch\.int32 of shape"),
        ({"qweight": torch.zeros(())}, "2, 4 or 8 bits"),
        ({"qweight": GOOD["qweight"].float()}, r"m\.qweight is torch\.float32"),
        ({"qzeros": GOOD["qzeros"][:2]}, r"m\.qzeros is"),
        ({"scales": GOOD["scales"][:3]}, "has 3 groups for 64 columns"),
        ({"scales": GOOD["scales"][:, :8]}, r"m\.scales is"),
        ({"scales": torch.zeros(())}, "has 0 groups"),
        ({"g_idx": GOOD["g_idx"] * 0}, "does not put 16 columns into every group"),
        ({"g_idx": GOOD["g_idx"] - 1}, "does not put 16 columns into every group"),
        ({"g_idx": GOOD["g_idx"][:9]}, r"m\.g_idx is"),
        ({"qzeros": None}, r"no tensor m\.qzeros"),
        ({"scales": None}, r"no tensor m\.scales"),
    ],
)
def test_linears_that_do_not_fit(tmp_path: Path, change: dict[str, Tensor | None], message: str) -> None:
    words = {name: tensor for name, tensor in (GOOD | change).items() if tensor is not None}
    with pytest.raises(CheckpointError, match=message):
        locate(tmp_path, words, (32, 64))


def test_three_bits_are_refused(tmp_path: Path) -> None:
    words = GOOD | {"qweight": torch.zeros(6, 32, dtype=torch.int32)}
    with pytest.raises(CheckpointError, match="2, 4 or 8 bits"):
        locate(tmp_path, words, (32, 64))


def test_g_idx_may_be_absent(tmp_path: Path) -> None:
    words = {name: tensor for name, tensor in GOOD.items() if name != "g_idx"}
    assert torch.equal(
        locate(tmp_path, words, (32, 64)).read(0, 32).codes_NK, decode(GOOD, QuantSpec(4, 16), "gptq_v2").codes_NK
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_scales_of_other_dtypes_are_rounded(tmp_path: Path, dtype: torch.dtype) -> None:
    scales = (torch.rand(4, 32) + 0.1).to(dtype)
    read = locate(tmp_path, GOOD | {"scales": scales}, (32, 64)).read(0, 32)
    assert torch.equal(read.scales_NG, scales.T.half().float())


@pytest.mark.parametrize("value", [1e-9, 1e6, float("nan")])
def test_scales_float16_cannot_hold(tmp_path: Path, value: float) -> None:
    scales = torch.ones(4, 32)
    scales[1, 2] = value
    with pytest.raises(CheckpointError, match=r"m\.scales"):
        locate(tmp_path, GOOD | {"scales": scales}, (32, 64)).read(0, 32)
