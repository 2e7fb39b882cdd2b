"""One layer's latent attention as ONNX graphs, from ``kv_b_proj``'s input to ``o_proj``'s, in GLM-4.7-Flash's shapes.

Every form takes the same queries (what rotates first in each head), normalized latents and shared rotating keys, and
gives the same values of heads. What all have alike, ``qkv_a_proj``, ``q_b_proj`` and ``o_proj``, is left out.

expanded         ``kv_b_proj`` in 4 bits, GroupQueryAttention with 20 heads of 256: what glmquant exports
latent, GQA      GroupQueryAttention with one key/value head of 576, whose row [rotating key | latent] is kept twice,
                 since the operator wants keys and values
latent, MatMul   the row kept once, as halves of 288 under the names of keys and values; MatMul, Softmax, MatMul

Shape suffixes: B batch, S new tokens, T all tokens, H heads, F heads and new tokens together, E head size, R rotating,
L latent, M both of these; of weights N rows, K columns, G groups.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper, parser

HEADS, LATENT, ROTATING, STILL, VALUE = 20, 512, 64, 192, 256
ROW, HEAD = ROTATING + LATENT, ROTATING + STILL
HALF = ROW // 2
GROUP = 128
POSITIONS = 33_000
TYPES = {"float": np.float32, "float16": np.float16, "int8": np.int8}


@dataclass(frozen=True)
class Form:
    """What a layer keeps, ``heads`` of ``width`` values in both arrays of its cache, and how it attends."""

    title: str
    heads: int
    width: int
    kind: str

    @property
    def in_place(self) -> bool:
        """The operator adds to a buffer, where others copy the whole cache at each step."""
        return self.width != HALF

    @property
    def cache_bytes(self) -> int:
        """A token and layer."""
        return 2 * self.heads * self.width * np.dtype(TYPES[self.kind]).itemsize


EXPANDED, EXPANDED_INT8 = (
    Form("expanded, float32", HEADS, HEAD, "float"),
    Form("expanded, INT8", HEADS, HEAD, "int8"),
)
LATENT_GQA, LATENT_GQA_INT8 = (
    Form("latent, GQA, float32", 1, ROW, "float"),
    Form("latent, GQA, INT8", 1, ROW, "int8"),
)
LATENT_MATMUL, LATENT_MATMUL_HALF, LATENT_MATMUL_INT8 = (
    Form("latent, MatMul, float32", 1, HALF, "float"),
    Form("latent, MatMul, float16", 1, HALF, "float16"),
    Form("latent, MatMul, INT8", 1, HALF, "int8"),
)
FORMS = (
    EXPANDED,
    EXPANDED_INT8,
    LATENT_GQA,
    LATENT_GQA_INT8,
    LATENT_MATMUL,
    LATENT_MATMUL_HALF,
    LATENT_MATMUL_INT8,
)


_ABSORB = f"""
    by_head = Constant <value_ints = [0, 0, {HEADS}, -1]> ()
    head_sizes = Constant <value_ints = [{ROTATING}, {STILL}]> ()
    query_BSHE = Reshape (query, by_head)
    rotating_BSHR, still_BSHE = Split <axis = -1> (query_BSHE, head_sizes)
    still_BHSE = Transpose <perm = [0, 2, 1, 3]> (still_BSHE)
    absorbed_BHSL = MatMul (still_BHSE, key_HEL)"""
"""``kv_b_proj``'s rows of keys multiplied into the queries, head by head."""

_VALUES = """
    values_BHSE = MatMul (context_BHSL, value_HLE)
    values_BSHE = Transpose <perm = [0, 2, 1, 3]> (values_BHSE)
    joined = Constant <value_ints = [0, 0, -1]> ()
    attended = Reshape (values_BSHE, joined)"""
"""``kv_b_proj``'s rows of values multiplied into what each head gathered of the latents."""


@dataclass(frozen=True)
class Weights:
    """``kv_b_proj`` in 4 bits, rows of keys before those of values, and the same numbers in float32 by head."""

    codes: np.ndarray
    scales: np.ndarray
    key_HEL: np.ndarray
    value_HLE: np.ndarray

    @property
    def packed_bytes(self) -> int:
        return int(self.codes.nbytes + self.scales.nbytes)

    @property
    def float_bytes(self) -> int:
        return int(self.key_HEL.nbytes + self.value_HLE.nbytes)


def make_weights(rng: np.random.Generator) -> Weights:
    rows = HEADS * (STILL + VALUE)
    weight_NGK = rng.standard_normal((rows, LATENT // GROUP, GROUP), np.float32) / LATENT**0.5
    scales_NG = np.abs(weight_NGK).max(axis=-1) / 7
    codes_NGK = np.clip(np.rint(weight_NGK / scales_NG[..., None]), -8, 7)
    dense_NK = (codes_NGK * scales_NG[..., None]).reshape(rows, LATENT).astype(np.float32)
    unsigned = (codes_NGK + 8).astype(np.uint8)
    key_NK, value_NK = np.split(dense_NK, [HEADS * STILL])
    return Weights(
        codes=unsigned[..., ::2] | unsigned[..., 1::2] << 4,
        scales=scales_NG.astype(np.float32),
        key_HEL=np.ascontiguousarray(key_NK.reshape(HEADS, STILL, LATENT)),
        value_HLE=np.ascontiguousarray(value_NK.reshape(HEADS, VALUE, LATENT).swapaxes(1, 2)),
    )


def angles() -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines ``[positions, rotating / 2]``."""
    each = np.outer(np.arange(POSITIONS), 1e6 ** (-np.arange(0, ROTATING, 2) / ROTATING))
    return np.cos(each).astype(np.float32), np.sin(each).astype(np.float32)


def build(form: Form, weights: Weights, scales: tuple[np.ndarray, np.ndarray], accuracy_level: int) -> onnx.ModelProto:
    """The form's graph.

    Args:
        scales: of an INT8 cache, float32 ``[1, heads, 1, width]`` each, for keys and for values.
        accuracy_level: of ``MatMulNBits``.
    """
    cos, sin = angles()
    tensors: dict[str, np.ndarray] = {"cos": cos, "sin": sin}
    if form.heads == HEADS:
        body = _expanded(form, accuracy_level)
        tensors |= {"codes": weights.codes, "kv_b_scales": weights.scales}
    else:
        body = _latent_gqa(form) if form.in_place else _latent_matmul(form)
        tensors |= {"key_HEL": weights.key_HEL, "value_HLE": weights.value_HLE}
    if form.kind == "int8":
        tensors |= {"key_scale": scales[0], "value_scale": scales[1]}
    cache = f"{form.kind}[1,{form.heads},{{}},{form.width}]"
    inputs = (
        f"float[1,S,{HEADS * HEAD}] query, float[1,S,{LATENT}] latent, float[1,S,{ROTATING}] key, "
        f"{cache.format('P')} past_key, {cache.format('P')} past_value, int32[1] seqlens, int32 total, "
        "int64[1,S] positions, float[S,T] mask"
    )
    outputs = f"float[1,S,{HEADS * VALUE}] attended, {cache.format('U')} present_key, {cache.format('U')} present_value"
    opsets = '<ir_version: 11, opset_import: ["" : 23, "com.microsoft" : 1]>'
    model = parser.parse_model(f"{opsets}\nlayer ({inputs}) => ({outputs}) {{\n{body}\n}}")
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in tensors.items())
    return model


def _expanded(form: Form, accuracy_level: int) -> str:
    return f"""
    both = com.microsoft.MatMulNBits <K = {LATENT}, N = {HEADS * (STILL + VALUE)}, bits = 4, block_size = {GROUP},
        accuracy_level = {accuracy_level}> (latent, codes, kv_b_scales)
    sizes = Constant <value_ints = [{HEADS * STILL}, {HEADS * VALUE}]> ()
    own, values = Split <axis = -1> (both, sizes)
    two = Constant <value_ints = [2]> ()
    one_each = Constant <value_ints = [1, 1, {HEADS}, 1]> ()
    by_head = Constant <value_ints = [0, 0, {HEADS}, -1]> ()
    in_a_row = Constant <value_ints = [0, 0, -1]> ()
    key_BS1R = Unsqueeze (key, two)
    shared_BSHR = Expand (key_BS1R, one_each)
    own_BSHE = Reshape (own, by_head)
    keys_BSHE = Concat <axis = -1> (shared_BSHR, own_BSHE)
    keys = Reshape (keys_BSHE, in_a_row)
    {_grouped_query(form, "attended", "query, keys, values")}
"""


def _latent_gqa(form: Form) -> str:
    return f"""
    {_ABSORB}
    absorbed_BSHL = Transpose <perm = [0, 2, 1, 3]> (absorbed_BHSL)
    rows_BSHM = Concat <axis = -1> (rotating_BSHR, absorbed_BSHL)
    in_a_row = Constant <value_ints = [0, 0, -1]> ()
    rows = Reshape (rows_BSHM, in_a_row)
    row = Concat <axis = -1> (key, latent)
    {_grouped_query(form, "context", "rows, row, row")}
    context_BSHM = Reshape (context, by_head)
    context_BHSM = Transpose <perm = [0, 2, 1, 3]> (context_BSHM)
    row_sizes = Constant <value_ints = [{ROTATING}, {LATENT}]> ()
    unused, context_BHSL = Split <axis = -1> (context_BHSM, row_sizes)
    {_VALUES}
"""


def _latent_matmul(form: Form) -> str:
    """What is kept of a token is [rotated key | latent], cut in halves; the heads' queries are rows of one product."""
    return f"""
    {_ABSORB}
    one_1 = Constant <value_ints = [1]> ()
    key_B1SR = Unsqueeze (key, one_1)
    latent_B1SL = Unsqueeze (latent, one_1)
    rotated_B1SR = RotaryEmbedding <interleaved = 1> (key_B1SR, cos, sin, positions)
    row = Concat <axis = -1> (rotated_B1SR, latent_B1SL)
    key_half, value_half = Split <axis = -1, num_outputs = 2> (row)
    rotating_BHSR = Transpose <perm = [0, 2, 1, 3]> (rotating_BSHR)
    query_BHSR = RotaryEmbedding <interleaved = 1> (rotating_BHSR, cos, sin, positions)
    plain_BHSM = Concat <axis = -1> (query_BHSR, absorbed_BHSL)
    scale = Constant <value_float = {HEAD**-0.5}> ()
    rows_BHSM = Mul (plain_BHSM, scale)
    key_rows_BHSM, value_rows_BHSM = Split <axis = -1, num_outputs = 2> (rows_BHSM)
    folded = Constant <value_ints = [0, 1, -1, {HALF}]> ()
    {_kept(form, "key")}
    {_kept(form, "value")}
    scores_B1FT = Add (key_scores, value_scores)
    shape_BHSE = Shape (absorbed_BHSL)
    upto = Constant <value_ints = [3]> ()
    zero_1 = Constant <value_ints = [0]> ()
    shape_BHS = Slice (shape_BHSE, zero_1, upto)
    last_1 = Constant <value_ints = [-1]> ()
    shape_BHST = Concat <axis = 0> (shape_BHS, last_1)
    scores_BHST = Reshape (scores_B1FT, shape_BHST)
    masked_BHST = Add (scores_BHST, mask)
    weights_BHST = Softmax <axis = -1> (masked_BHST)
    shape_B1FT = Shape (scores_B1FT)
    weights_B1FT = Reshape (weights_BHST, shape_B1FT)
    {_context(form, "key")}
    {_context(form, "value")}
    context_B1FM = Concat <axis = -1> (key_context, value_context)
    shape_BHSM = Shape (rows_BHSM)
    context_BHSM = Reshape (context_B1FM, shape_BHSM)
    row_sizes = Constant <value_ints = [{ROTATING}, {LATENT}]> ()
    unused, context_BHSL = Split <axis = -1> (context_BHSM, row_sizes)
    {_VALUES}
"""


def _kept(form: Form, half: str) -> str:
    """Scores of one half. A channel's scale multiplies the queries and the context, not all that is kept."""
    store = {
        "float": f"{half}_new = Identity ({half}_half)",
        "float16": f"{half}_new = Cast <to = 10> ({half}_half)",
        "int8": f"""{half}_steps = Div ({half}_half, {half}_scale)
    {half}_rounded = Round ({half}_steps)
    {half}_clipped = Clip ({half}_rounded, least, most)
    {half}_new = Cast <to = 3> ({half}_clipped)""",
    }[form.kind]
    query = f"{half}_rows = Reshape ({half}_rows_BHSM, folded)"
    if form.kind == "int8":
        limits = "least = Constant <value_float = -128.0> ()\n    most = Constant <value_float = 127.0> ()"
        store = f"{limits}\n    {store}" if half == "key" else store
        query = (
            f"{half}_scaled = Mul ({half}_rows_BHSM, {half}_scale)\n    {half}_rows = Reshape ({half}_scaled, folded)"
        )
    read = f"{half}_read = Identity (present_{half})"
    if form.kind != "float":
        read = f"{half}_read = Cast <to = 1> (present_{half})"
    return f"""{store}
    present_{half} = Concat <axis = 2> (past_{half}, {half}_new)
    {read}
    {query}
    {half}_across = Transpose <perm = [0, 1, 3, 2]> ({half}_read)
    {half}_scores = MatMul ({half}_rows, {half}_across)"""


def _context(form: Form, half: str) -> str:
    if form.kind == "int8":
        return f"{half}_sums = MatMul (weights_B1FT, {half}_read)\n    {half}_context = Mul ({half}_sums, {half}_scale)"
    return f"{half}_context = MatMul (weights_B1FT, {half}_read)"


def _grouped_query(form: Form, context: str, qkv: str) -> str:
    scales, kinds = "", ""
    if form.kind == "int8":
        scales = ", , , , key_scale, value_scale"
        kinds = ', k_quant_type = "PER_CHANNEL", v_quant_type = "PER_CHANNEL", kv_cache_bit_width = 8'
    return (
        f"{context}, present_key, present_value = com.microsoft.GroupQueryAttention <num_heads = {HEADS}, "
        f"kv_num_heads = {form.heads}, do_rotary = 1, rotary_interleaved = 1, scale = {HEAD**-0.5}{kinds}> "
        f"({qkv}, past_key, past_value, seqlens, total, cos, sin{scales})"
    )
