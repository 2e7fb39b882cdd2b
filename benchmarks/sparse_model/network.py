"""transformers' own GLM-4.7-Flash, small, with what its training needs and its inference does not.

Routing is balanced as in DeepSeek-V3 (arXiv:2412.19437, section 2.1.2; Wang et al., arXiv:2408.15664): no loss asks for
it; after each step the bias that takes part in choosing experts grows for those that met fewer tokens than the mean
and shrinks for those that met more.

Shape suffixes: B batch, T tokens, V vocabulary, X experts, k experts of a token.
"""

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Glm4MoeLiteConfig

BALANCING_SPEED = 0.003
"""What a bias changes by after a step. DeepSeek-V3 took 0.001 over a million times as many tokens."""


def configuration(vocabulary: int) -> Glm4MoeLiteConfig:
    """6 million parameters, a fifth of the experts' in use for a token; 11.8 MB in bfloat16."""
    return Glm4MoeLiteConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=256,
        moe_intermediate_size=128,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=4,
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_shared_experts=1,
        routed_scaling_factor=1.8,
        q_lora_rank=64,
        kv_lora_rank=64,
        qk_nope_head_dim=32,
        qk_rope_head_dim=32,
        v_head_dim=64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
        mlp_layer_types=["dense"] + ["sparse"] * 4,
    )


class RoutedModel(nn.Module):
    """Ids ``[B, T]`` to logits ``[B, T, V]``; counts the tokens that each expert meets while it trains."""

    def __init__(self, config: Glm4MoeLiteConfig) -> None:
        super().__init__()
        self.model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
        self.model.set_experts_implementation("eager")
        self._gates = [layer.mlp.gate for layer in self.model.model.layers if hasattr(layer.mlp, "gate")]
        self._met_X = [torch.zeros(config.n_routed_experts) for _ in self._gates]
        for met_X, gate in zip(self._met_X, self._gates, strict=True):
            gate.forward = torch.autocast("cpu", enabled=False)(gate.forward)  # as in inference: float32
            gate.register_forward_hook(lambda gate, _, output, met_X=met_X: self._count(met_X, output[2]))

    def forward(self, ids_BT: Tensor) -> Tensor:
        logits_BTV: Tensor = self.model(ids_BT, use_cache=False).logits
        return logits_BTV

    def _count(self, met_X: Tensor, chosen_Tk: Tensor) -> None:
        if self.training:
            met_X += chosen_Tk.flatten().bincount(minlength=len(met_X))

    @torch.no_grad()
    def balance(self) -> float:
        """Moves every bias by what was counted since the last time.

        Returns:
            The largest excess over the mean among all layers' experts, as a share of the mean.
        """
        excess = []
        for met_X, gate in zip(self._met_X, self._gates, strict=True):
            mean = met_X.mean()
            gate.e_score_correction_bias += BALANCING_SPEED * (mean - met_X).sign()
            excess.append(float(met_X.max() / mean) - 1)
            met_X.zero_()
        return max(excess)
