"""The one description of a GLM that everything inside works from, whatever layout it was published in."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # a bundle's settings are read without pydantic
    from glmquant.core.spec import QuantSpec

Architecture = Literal["glm", "glm4", "glm4_moe", "glm4_moe_lite"]
"""The canonical architectures: ``Glm``, ``Glm4``, ``Glm4Moe`` and ``Glm4MoeLite`` of transformers."""

Family = Literal[
    "chatglm2", "chatglm3", "codegeex2", "glm-4", "glm-edge", "glm-4-0414", "glm-4.5", "glm-4.7-flash", "glm"
]
"""Who published it: decides the chat template and how ``rope_ratio`` acts. ``glm`` stands for a plain ``glm`` layout
whose template, if any, comes with its tokenizer."""


FloatDtype = Literal["float16", "bfloat16", "float32"]


@dataclass(frozen=True)
class ExpertsConfig:
    """The routed experts of sparse layers, in the words of transformers' ``Glm4MoeConfig``.

    Attributes:
        count: ``n_routed_experts``.
        per_token: ``num_experts_per_tok``.
        intermediate_size: of one expert.
        shared: ``n_shared_experts``, which every token meets; they are one MLP of as many times the size.
        scaling: ``routed_scaling_factor``, by which the chosen experts' weights are multiplied.
        first_layer: the first sparse layer; all before it are dense.
    """

    count: int
    per_token: int
    intermediate_size: int
    shared: int
    scaling: float
    first_layer: int


@dataclass(frozen=True)
class LatentConfig:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, §2.1); the rotating part is ``rotary_dim`` wide.

    Attributes:
        query_rank: ``q_lora_rank``.
        key_value_rank: ``kv_lora_rank``.
        still_dim: ``qk_nope_head_dim``, of a head of queries or keys what does not rotate.
    """

    query_rank: int
    key_value_rank: int
    still_dim: int


@dataclass(frozen=True)
class GlmConfig:
    """A GLM's shape and constants, in the words of transformers' ``GlmConfig``.

    Attributes:
        architecture: which block: ``glm``; ``glm4`` with norms after attention and MLP too; ``glm4_moe`` and
            ``glm4_moe_lite`` with routed experts, the latter with latent attention.
        family: lineage.
        rotary_dim: leading dimensions of each head that rotate; the rest pass through. With latent attention the
            rotating dimensions are published last, and stand first inside.
        position_divisor: positions are divided by it before rotation (ChatGLM2-6B-32k's ``rope_ratio``); else 1.
        attention_bias: q, k and v projections have a bias.
        eos_token_ids: every id that ends generation.
        float_dtype: the dtype the checkpoint's weights are published in.
        hidden_act: which MLP part the blocks have (:data:`glmquant.glm.parts.MLP_PARTS`).
        labels: of a classifier, in the order of its head's rows; empty for a language model.
        qk_norm: heads of queries and keys are normalized before they rotate.
        experts: of sparse layers; None where all layers are dense.
        latent: None where queries, keys and values are projected from the residual stream itself.
    """

    architecture: Architecture
    family: Family
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rotary_dim: int
    rope_theta: float
    position_divisor: float
    rms_norm_eps: float
    vocab_size: int
    max_position_embeddings: int
    attention_bias: bool
    tie_word_embeddings: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    float_dtype: FloatDtype = "float16"
    labels: tuple[str, ...] = ()
    hidden_act: str = "silu"
    qk_norm: bool = False
    experts: ExpertsConfig | None = None
    latent: LatentConfig | None = None

    @property
    def query_rows(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_rows(self) -> int:
        return self.num_key_value_heads * self.head_dim

    @property
    def num_labels(self) -> int:
        """Rows of the classification head; 0 for a language model."""
        return len(self.labels)

    @property
    def sandwich_norms(self) -> bool:
        return self.architecture == "glm4"

    @property
    def rotates_in_pairs(self) -> bool:
        """Dimensions ``2i`` and ``2i + 1`` rotate together; else ``i`` and ``i + rotary_dim / 2``."""
        return self.architecture != "glm4_moe"

    @property
    def fuses_gate_up(self) -> bool:
        """An MLP's gate and up are one published matrix."""
        return self.experts is None

    def is_sparse(self, layer: int) -> bool:
        """The layer's MLP has routed experts."""
        return self.experts is not None and layer >= self.experts.first_layer


@dataclass(frozen=True)
class LinearGroup:
    """Linear layers that share their input, are stacked into one matrix, and get one spec.

    Attributes:
        name: e.g. ``layers.3.self_attn.qkv_proj`` or ``lm_head``.
        members: canonical module names, top rows first, e.g. ``model.layers.3.self_attn.q_proj``.
        member_rows: output rows of each member.
        columns: input columns.
        bias: the members have one.
        split: modules that hold equal shares of a single member's rows, where a checkpoint stores them apart.
        shared_unit: the unit of a recipe's rule that it is part of; None where it is one itself.
    """

    name: str
    members: tuple[str, ...]
    member_rows: tuple[int, ...]
    columns: int
    bias: bool = False
    split: tuple[str, ...] = ()
    shared_unit: str | None = None

    @property
    def unit(self) -> str:
        """What rules match, and what a plan has a spec for."""
        return self.shared_unit or self.name

    @property
    def rows(self) -> int:
        return sum(self.member_rows)

    @property
    def num_weights(self) -> int:
        return self.rows * self.columns

    def stored_bytes(self, spec: "QuantSpec") -> int:
        """Of codes, scales and zero points."""
        return spec.stored_bytes(self.rows, self.columns)

    def within(self, scope: str) -> str:
        """The name within a part: ``qkv_proj``, ``shared_experts.down_proj``."""
        return self.within_layer.removeprefix(f"{scope}.")

    @property
    def within_layer(self) -> str:
        """The name without its layer: ``self_attn.qkv_proj``; ``lm_head`` as it is."""
        return self.name.split(".", 2)[2] if self.name.startswith("layers.") else self.name
