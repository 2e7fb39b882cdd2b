"""Where each canonical tensor lies in a published checkpoint."""

from dataclasses import dataclass
from typing import Literal

from glmquant.glm.config import GlmConfig


@dataclass(frozen=True)
class RowScales:
    """A weight published as int8 with a scale for each row (:func:`glmquant.glm.layouts.row_quantized.read_rows`).

    Attributes:
        name: the published tensor of scales, float ``[N]``, its rows those of the weight.
        bits: bits of a code.
    """

    name: str
    bits: Literal[4, 8]


@dataclass(frozen=True)
class TensorSource:
    """A published tensor, or some rows of it.

    Attributes:
        name: the tensor's name in the published files.
        shape: the whole published tensor's expected shape.
        rows: ``(start, stop)`` of the rows that make up the canonical tensor; None for all.
        scales: for a weight its publisher quantized, how; ``shape`` is then that of the bytes, ``[N, K * bits / 8]``.
    """

    name: str
    shape: tuple[int, ...]
    rows: tuple[int, int] | None = None
    scales: RowScales | None = None


@dataclass(frozen=True)
class Layout:
    """A published layout, resolved for one model.

    Attributes:
        config: the model's canonical description.
        sources: canonical tensor name (``model.layers.0.self_attn.q_proj.weight``) to its source.
        ignored: published tensors that carry nothing (e.g. ``transformer.rotary_pos_emb.inv_freq``).
    """

    config: GlmConfig
    sources: dict[str, TensorSource]
    ignored: frozenset[str] = frozenset()
