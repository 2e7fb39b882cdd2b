"""The one description of a GLM that everything inside works from, whatever layout it was published in."""

from dataclasses import dataclass
from typing import Literal

Architecture = Literal["glm", "glm4"]
"""The canonical architectures: ``Glm`` and ``Glm4`` of transformers."""

Family = Literal["chatglm2", "chatglm3", "codegeex2", "glm-4", "glm-edge", "glm-4-0414", "glm"]
"""Who published it: decides the chat template and how ``rope_ratio`` acts. ``glm`` stands for a plain ``glm`` layout
whose template, if any, comes with its tokenizer."""


FloatDtype = Literal["float16", "bfloat16", "float32"]


@dataclass(frozen=True)
class GlmConfig:
    """A GLM's shape and constants, in the words of transformers' ``GlmConfig``.

    Attributes:
        architecture: which block: ``glm``, or ``glm4`` with norms after attention and MLP too.
        family: lineage.
        rotary_dim: leading dimensions of each head that rotate, in interleaved pairs; the rest pass through.
        position_divisor: positions are divided by it before rotation (ChatGLM2-6B-32k's ``rope_ratio``); else 1.
        attention_bias: q, k and v projections have a bias.
        eos_token_ids: every id that ends generation.
        float_dtype: the dtype the checkpoint's weights are published in.
        hidden_act: which MLP part the blocks have (:data:`glmquant.glm.parts.MLP_PARTS`).
        labels: of a classifier, in the order of its head's rows; empty for a language model.
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


@dataclass(frozen=True)
class LinearGroup:
    """Linear layers that share their input, are stacked into one matrix, and get one spec: the unit of a recipe's rule.

    Attributes:
        name: what rules match, e.g. ``layers.3.self_attn.qkv_proj`` or ``lm_head``.
        members: canonical module names, top rows first, e.g. ``model.layers.3.self_attn.q_proj``.
        member_rows: output rows of each member.
        columns: input columns.
        bias: the members have one.
        split: modules that hold equal shares of a single member's rows, where a checkpoint stores them apart.
    """

    name: str
    members: tuple[str, ...]
    member_rows: tuple[int, ...]
    columns: int
    bias: bool = False
    split: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        return sum(self.member_rows)

    @property
    def within_layer(self) -> str:
        """The name without its layer: ``self_attn.qkv_proj``; ``lm_head`` as it is."""
        return self.name.split(".", 2)[2] if self.name.startswith("layers.") else self.name
