"""ChatGLM2 in plain torch, small. Modules nest so that `state_dict()` has the publisher's tensor names.

Shapes: B batch, T positions, D hidden, H query heads, G key/value groups, C channels of a head, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    vocab: int
    hidden: int = 256
    layers: int = 6
    heads: int = 4
    groups: int = 2
    channels: int = 64
    ffn: int = 768
    positions: int = 1024
    dropout: float = 0.0
    epsilon: float = 1e-5


class RMSNorm(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape.hidden))
        self.epsilon = shape.epsilon

    def forward(self, x_BTD: Tensor) -> Tensor:
        return functional.rms_norm(x_BTD, self.weight.shape, self.weight, self.epsilon)


class Rotary(nn.Module):
    """Rotates the first half of each head, pairs (2i, 2i+1); the second half passes through."""

    inv_freq: Tensor
    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.width = shape.channels // 2
        frequencies = 10000 ** -(torch.arange(0, self.width, 2).float() / self.width)
        angles = torch.outer(torch.arange(shape.positions).float(), frequencies)
        self.register_buffer("inv_freq", frequencies)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x_BHTC: Tensor) -> Tensor:
        length = x_BHTC.shape[2]
        cos, sin = self.cos[:length], self.sin[:length]
        turned, passed = x_BHTC[..., : self.width], x_BHTC[..., self.width :]
        even, odd = turned[..., 0::2].float(), turned[..., 1::2].float()
        pairs = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1)
        return torch.cat((pairs.flatten(-2).to(x_BHTC.dtype), passed), dim=-1)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.heads * shape.channels
        self.query_key_value = nn.Linear(shape.hidden, width + 2 * shape.groups * shape.channels)
        self.dense = nn.Linear(width, shape.hidden, bias=False)

    def forward(self, x_BTD: Tensor, rotary: Rotary) -> Tensor:
        s = self.shape
        batch, length, _ = x_BTD.shape
        heads = self.query_key_value(x_BTD).view(batch, length, -1, s.channels).transpose(1, 2)
        q, k, v = heads.split((s.heads, s.groups, s.groups), dim=1)
        q, k = rotary(q), rotary(k)
        k, v = (t.repeat_interleave(s.heads // s.groups, dim=1) for t in (k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.dense(mixed.transpose(1, 2).reshape(batch, length, -1))
        return out


class FeedForward(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(shape.hidden, 2 * shape.ffn, bias=False)
        self.dense_4h_to_h = nn.Linear(shape.ffn, shape.hidden, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate, up = self.dense_h_to_4h(x_BTD).chunk(2, dim=-1)
        out: Tensor = self.dense_4h_to_h(functional.silu(gate) * up)
        return out


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape)
        self.self_attention = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape)
        self.mlp = FeedForward(shape)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x_BTD: Tensor, rotary: Rotary) -> Tensor:
        x_BTD = x_BTD + self.dropout(self.self_attention(self.input_layernorm(x_BTD), rotary))
        out: Tensor = x_BTD + self.dropout(self.mlp(self.post_attention_layernorm(x_BTD)))
        return out


class Encoder(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.final_layernorm = RMSNorm(shape)

    def forward(self, x_BTD: Tensor, rotary: Rotary) -> Tensor:
        for block in self.layers:
            x_BTD = block(x_BTD, rotary)
        out: Tensor = self.final_layernorm(x_BTD)
        return out


class Transformer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embedding = nn.ModuleDict({"word_embeddings": nn.Embedding(shape.vocab, shape.hidden)})
        self.rotary_pos_emb = Rotary(shape)
        self.encoder = Encoder(shape)
        self.output_layer = nn.Linear(shape.hidden, shape.vocab, bias=False)


class ChatGLM2(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.transformer = Transformer(shape)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                residual = name.endswith(("dense.weight", "dense_4h_to_h.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * shape.layers) ** 0.5 if residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Logits [B, T, V]."""
        model = self.transformer
        x_BTD = model.embedding["word_embeddings"](ids_BT)
        logits_BTV: Tensor = model.output_layer(model.encoder(x_BTD, model.rotary_pos_emb))
        return logits_BTV
