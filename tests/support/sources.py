"""Models for tests of the check."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from glmquant.evaluation.source import Logits, Query
from glmquant.glm.model import ModelSource


@dataclass(frozen=True)
class Hashed:
    """A language model whose logits depend on every token before, and on nothing else."""

    vocabulary: int = 40
    seed: int = 0

    def row(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        rng = np.random.default_rng([self.seed, *tokens])
        return (3 * rng.normal(size=self.vocabulary)).astype(np.float32)

    def logits(self, queries: Sequence[Query]) -> Iterator[Logits]:
        for query in queries:
            tokens = query.tokens.tolist()
            starts = range(len(tokens) - query.num_logits + 1, len(tokens) + 1)
            yield np.stack([self.row(tokens[:end]) for end in starts])


@dataclass(frozen=True)
class Noisy:
    """Another source's logits with noise added, the same for the same query."""

    source: object
    amount: float

    def logits(self, queries: Sequence[Query]) -> Iterator[Logits]:
        for index, answer in enumerate(self.source.logits(queries)):  # type: ignore[attr-defined]
            noise = np.random.default_rng(index).normal(size=answer.shape)
            yield answer + (self.amount * noise).astype(np.float32)


def transformers_twin(model: ModelSource) -> torch.nn.Module:
    """The same weights in transformers' own ``GlmForCausalLM``, float32."""
    from transformers import GlmConfig, GlmForCausalLM

    config = model.config
    rope = {"rope_theta": config.rope_theta, "partial_rotary_factor": config.rotary_dim / config.head_dim}
    twin = GlmForCausalLM(
        GlmConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            vocab_size=config.vocab_size,
            rms_norm_eps=config.rms_norm_eps,
            attention_bias=config.attention_bias,
            rope_parameters={"rope_type": "default", **rope},
            tie_word_embeddings=False,
            pad_token_id=config.pad_token_id,
            **rope,
        )
    )
    state = {
        "model.embed_tokens.weight": model.embedding(),
        "model.norm.weight": model.final_norm(),
        "lm_head.weight": model.head().dense(),
    }
    rows = [config.query_rows, config.key_value_rows, config.key_value_rows]
    for layer in range(config.num_hidden_layers):
        block, prefix = model.block(layer), f"model.layers.{layer}"
        assert block.linears()["self_attn.qkv_proj"].bias_N is not None
        parts = zip(
            "qkv",
            block.linears()["self_attn.qkv_proj"].dense().split(rows),
            block.linears()["self_attn.qkv_proj"].bias_N.split(rows),
            strict=True,
        )
        for name, weight, bias in parts:
            state[f"{prefix}.self_attn.{name}_proj.weight"] = weight
            state[f"{prefix}.self_attn.{name}_proj.bias"] = bias
        state[f"{prefix}.self_attn.o_proj.weight"] = block.linears()["self_attn.o_proj"].dense()
        state[f"{prefix}.mlp.gate_up_proj.weight"] = block.linears()["mlp.gate_up_proj"].dense()
        state[f"{prefix}.mlp.down_proj.weight"] = block.linears()["mlp.down_proj"].dense()
        state[f"{prefix}.input_layernorm.weight"] = block.attention.gains["input_layernorm"]
        state[f"{prefix}.post_attention_layernorm.weight"] = block.mlp.gains["post_attention_layernorm"]
    twin.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return twin.eval()
