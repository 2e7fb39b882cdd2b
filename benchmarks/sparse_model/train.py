"""Train a small GLM-4.7-Flash on the demonstration model's text, with its tokenizer.

    python -m benchmarks.sparse_model.train --handbook-html DEB/usr/share/doc/debian-handbook/html --work WORK

writes WORK/float, as transformers saves it, and WORK/training.json with the figures of its quality. Steps and seed are
fixed; a run that is killed continues from WORK.
"""

import argparse
import json
import math
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from benchmarks.demo_model import measure
from benchmarks.demo_model.batches import handbook_batches
from benchmarks.demo_model.corpus import Corpus, Tokenizer
from benchmarks.demo_model.training import SEED, Run, Schedule
from benchmarks.sparse_model.handbook import read_corpus
from benchmarks.sparse_model.network import RoutedModel, configuration
from glmquant import assets
from glmquant.glm.tokenizers.tokenizer import load_tokenizer
from glmquant.store.checkpoint import open_checkpoint

SCHEDULE = Schedule(steps=600, look_every=200)


def train(run: Run[RoutedModel], corpus: Corpus, tokenizer: Tokenizer) -> None:
    batches = handbook_batches(corpus, tokenizer, SEED)
    for batch in islice(batches, run.step, run.schedule.steps):
        started = time.monotonic()
        run.model.train()
        (loss,) = run.train_step([(batch, 1.0)])
        excess = run.model.balance()
        run.seconds += time.monotonic() - started
        if run.step % 20 == 0:
            rate = f"{run.tokens / run.seconds:.0f} tokens/s"
            print(f"step {run.step} loss {loss:.3f} largest excess of load {excess:.2f} {rate}", flush=True)
        if run.step % run.schedule.save_every == 0 or run.step == run.schedule.steps:
            run.save()
        if run.step % run.schedule.look_every == 0:
            print(f"step {run.step} {perplexities(run.model, corpus, tokenizer)}", flush=True)


def perplexities(model: RoutedModel, corpus: Corpus, tokenizer: Tokenizer) -> dict[str, float]:
    """Of the held-out text, which is looked at and never trained on."""
    model.eval()
    handbooks = {"en": corpus.en, "zh": corpus.zh}
    return {name: measure.perplexity(model, each.held_out, tokenizer) for name, each in handbooks.items()}


def write_checkpoint(model: RoutedModel, directory: Path) -> None:
    """In bfloat16 but for the router, with the demonstration model's tokenizer; the model is left as it is written."""
    packaged = open_checkpoint(assets.DEMO_MODEL)
    for name, parameter in model.model.named_parameters():
        if not name.endswith("gate.weight"):
            parameter.data = parameter.data.to(torch.bfloat16)
    model.model.save_pretrained(directory)
    load_tokenizer(packaged.path, packaged.config).save(directory)
    model.float()


def figures(run: Run[RoutedModel], corpus: Corpus, tokenizer: Tokenizer) -> dict[str, object]:
    return {
        "steps": run.step,
        "tokens": run.tokens,
        "seconds": round(run.seconds),
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "training tokens": {
            name: len(tokenizer.encode(each.train)) for name, each in (("en", corpus.en), ("zh", corpus.zh))
        },
        "unigram": {
            name: measure.unigram_perplexity(each, tokenizer) for name, each in (("en", corpus.en), ("zh", corpus.zh))
        },
        "perplexity": perplexities(run.model, corpus, tokenizer),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--handbook-html", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=SCHEDULE.steps, help="fewer for a trial")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(2)
    args.work.mkdir(parents=True, exist_ok=True)
    corpus = read_corpus(args.handbook_html)
    tokenizer = Tokenizer((assets.DEMO_MODEL / "tokenizer.model").read_bytes())
    torch.manual_seed(SEED)
    model = RoutedModel(configuration(math.ceil(tokenizer.num_words / 64) * 64))
    run = Run(model, replace(SCHEDULE, steps=args.steps), args.work / "state.pt")
    train(run, corpus, tokenizer)
    write_checkpoint(run.model, args.work / "float")
    values = figures(run, corpus, tokenizer)
    (args.work / "training.json").write_text(json.dumps(values, indent=1) + "\n")
    print(json.dumps(values, indent=1))


if __name__ == "__main__":
    main()
