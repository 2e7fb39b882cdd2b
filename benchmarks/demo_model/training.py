"""Steps of AdamW on weighted batches, and a state that a killed run continues from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import nn
from torch.nn import functional

from benchmarks.demo_model.batches import Batch

SEED = 20260

Model = TypeVar("Model", bound=nn.Module)
"""Called with ids [B, T], it gives logits [B, T, V]."""


@dataclass(frozen=True)
class Schedule:
    steps: int = 1200
    warmup: int = 60
    peak: float = 2e-3
    floor: float = 0.05
    weight_decay: float = 0.1
    save_every: int = 50
    look_every: int = 300

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to `floor` of the peak."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = (step - self.warmup) / (self.steps - self.warmup)
        return self.peak * (self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2)


class Run(Generic[Model]):
    """A model, its optimizer and the number of steps done; saved and loaded as one file."""

    def __init__(self, model: Model, schedule: Schedule, state_file: Path) -> None:
        self.model = model
        self.schedule = schedule
        self.state_file = state_file
        self.step = 0
        self.tokens = 0
        self.seconds = 0.0
        parameters = dict(self.model.named_parameters())
        decayed = [p for name, p in parameters.items() if p.ndim >= 2 and "embed" not in name]
        plain = [p for name, p in parameters.items() if p.ndim == 1 or "embed" in name]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": schedule.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=schedule.peak,
            betas=(0.9, 0.95),
            fused=True,
        )
        if state_file.exists():
            state = torch.load(state_file, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]

    def save(self) -> None:
        partial = self.state_file.with_suffix(".partial")
        progress = {"step": self.step, "tokens": self.tokens, "seconds": self.seconds}
        weights = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(weights | progress, partial)
        partial.replace(self.state_file)

    def train_step(self, batches: Sequence[tuple[Batch, float]]) -> list[float]:
        """One step on the sum of the batches' losses, each times its weight; gives the losses."""
        torch.manual_seed(SEED + self.step)  # dropout of a resumed run is that of an unbroken one
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate(self.step)
        losses = []
        for batch, weight in batches:
            loss = batch_loss(self.model, batch)
            (loss * weight).backward()
            losses.append(loss.item())
            self.tokens += int((batch.weights_BT > 0).sum())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return losses


def batch_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        logits_BTV = model(batch.ids_BT[:, :-1])
    loss = functional.cross_entropy(logits_BTV.flatten(0, 1).float(), batch.ids_BT[:, 1:].flatten(), reduction="none")
    weights = batch.weights_BT[:, 1:].flatten()
    mean: torch.Tensor = (loss * weights).sum() / weights.sum()
    return mean
