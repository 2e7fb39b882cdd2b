"""What the model can do: perplexity, review classification, and a quick look at rounding its weights."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.demo_model.batches import WINDOW
from benchmarks.demo_model.checkpoint import float16_state
from benchmarks.demo_model.corpus import POSITIVE, Corpus, Handbook, Review, Tokenizer
from benchmarks.demo_model.network import ChatGLM2

QUANTISED = ("query_key_value.weight", "dense.weight", "dense_h_to_4h.weight", "dense_4h_to_h.weight")
HEAD = "output_layer.weight"


@dataclass(frozen=True)
class Quality:
    perplexity_en: float
    perplexity_zh: float
    accuracy_test: float
    accuracy_shipped: float


def float16_copy(model: ChatGLM2, bits: int = 16, *, with_head: bool = False) -> ChatGLM2:
    """The model as it ships, computed in float32; its linears rounded if `bits` is below 16."""
    state = {name: tensor.float() for name, tensor in float16_state(model).items()}
    suffixes = (*QUANTISED, HEAD) if with_head else QUANTISED
    if bits < 16:
        state = {name: rounded(t, bits) if name.endswith(suffixes) else t for name, t in state.items()}
    copy = ChatGLM2(model.shape)
    copy.load_state_dict(state)
    return copy.eval()


def rounded(w_NK: Tensor, bits: int, group: int = 128) -> Tensor:
    """Symmetric round-to-nearest; scale = absmax / (2^(bits−1) − 1) in float16."""
    top = 2 ** (bits - 1) - 1
    w_NGg = w_NK.view(len(w_NK), -1, group)
    scale = (w_NGg.abs().amax(-1, keepdim=True) / top).half().float().clamp(min=2**-24)
    codes = (w_NGg / scale).round().clamp(-top - 1, top)
    return (codes * scale).view_as(w_NK)


def last_windows(text: str, tokenizer: Tokenizer) -> Tensor:
    """The last N × 512 tokens as N rows."""
    ids = tokenizer.encode(text)
    count = len(ids) // WINDOW
    return torch.tensor(ids[len(ids) - count * WINDOW :]).view(count, WINDOW)


@torch.inference_mode()
def perplexity(model: nn.Module, text: str, tokenizer: Tokenizer) -> float:
    """Every token of each window is scored; each window starts after the prefix, which is not."""
    windows = last_windows(text, tokenizer)
    prefix = torch.tensor(tokenizer.prefix)
    total = 0.0
    for rows in torch.split(windows, 4):
        ids = torch.cat((prefix.expand(len(rows), -1), rows), dim=1)
        logits = model(ids[:, :-1])[:, len(prefix) - 1 :]
        total += functional.cross_entropy(logits.flatten(0, 1).double(), rows.flatten(), reduction="sum").item()
    return math.exp(total / windows.numel())


def unigram_perplexity(handbook: Handbook, tokenizer: Tokenizer) -> float:
    """Add-one counts of the same language's training tokens, on the tokens `perplexity` scores."""
    counts = Counter(tokenizer.encode(handbook.train))
    total = counts.total() + tokenizer.num_words
    scored = last_windows(handbook.held_out, tokenizer).flatten().tolist()
    return math.exp(-sum(math.log((counts[i] + 1) / total) for i in scored) / len(scored))


@torch.inference_mode()
def accuracy(model: ChatGLM2, reviews: list[Review], tokenizer: Tokenizer) -> float:
    """Share of reviews whose own label is the likelier of the two after the prompt."""
    prompts = [(tokenizer.prefix + tokenizer.encode(r.prompt), r.label) for r in reviews]
    prompts.sort(key=lambda prompt: len(prompt[0]))
    choice = torch.tensor(list(tokenizer.label_ids.values()))
    names = list(tokenizer.label_ids)
    right = 0
    for start in range(0, len(prompts), 32):
        group = prompts[start : start + 32]
        ids = torch.zeros(len(group), len(group[-1][0]), dtype=torch.int64)
        for i, (prompt, _) in enumerate(group):
            ids[i, : len(prompt)] = torch.tensor(prompt)
        last = torch.tensor([len(prompt) - 1 for prompt, _ in group])
        picked = model(ids)[torch.arange(len(group)), last][:, choice].argmax(dim=1)
        right += sum(names[p] == label for p, (_, label) in zip(picked.tolist(), group, strict=True))
    return right / len(prompts)


def quality(model: ChatGLM2, corpus: Corpus, tokenizer: Tokenizer) -> Quality:
    return Quality(
        perplexity_en=perplexity(model, corpus.en.held_out, tokenizer),
        perplexity_zh=perplexity(model, corpus.zh.held_out, tokenizer),
        accuracy_test=accuracy(model, corpus.reviews.test, tokenizer),
        accuracy_shipped=accuracy(model, corpus.reviews.shipped(), tokenizer),
    )


def largest_activation(model: ChatGLM2, text: str, tokenizer: Tokenizer) -> float:
    """The largest absolute output of any module: float16 ends at 65,504."""
    largest = 0.0

    def look(_module: object, _inputs: object, output: Tensor) -> None:
        nonlocal largest
        largest = max(largest, output.abs().max().item())

    hooks = [module.register_forward_hook(look) for module in model.modules()]
    with torch.inference_mode():
        model(last_windows(text, tokenizer)[:8])
    for hook in hooks:
        hook.remove()
    return largest


def majority(reviews: list[Review]) -> float:
    positive = sum(review.label == POSITIVE for review in reviews) / len(reviews)
    return max(positive, 1 - positive)
