"""A row as it is kept in the repository: what it was made by, and every figure of it."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter

from benchmarks.accuracy.made import RECORD, Cost, Made, sha256_of
from glmquant.evaluation.metrics import LanguageMetrics


@dataclass(frozen=True)
class OnText:
    """A row on a text of this digest."""

    text_sha256: str
    metrics: LanguageMetrics


@dataclass(frozen=True)
class Kept:
    """A row.

    Attributes:
        key: of all that decided what was written.
        sha256: of the weights that were written.
        texts: by file name.
    """

    name: str
    key: str
    sha256: str
    machine: str
    date: str
    cost: Cost
    average_bits: float = 0.0
    texts: dict[str, OnText] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, made: Made, machine: str, date: str) -> "Kept":
        record = json.loads((made.path.parent / RECORD).read_text(encoding="utf-8"))
        return cls(name, record["key"], made.sha256, machine, date, made.cost)

    @classmethod
    def read_all(cls, directory: Path) -> dict[str, "Kept"]:
        rows = [_KEPT.validate_json(path.read_bytes()) for path in sorted(directory.glob("*.json"))]
        return {row.name: row for row in rows}

    def has(self, text: Path) -> bool:
        return text.name in self.texts and self.texts[text.name].text_sha256 == _digest(text)

    def measured(self, text: Path, average_bits: float, metrics: LanguageMetrics) -> "Kept":
        on_text = OnText(_digest(text), replace(metrics, worst=()))
        return replace(self, average_bits=average_bits, texts=self.texts | {text.name: on_text})

    def write(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        path = directory / f"{hashlib.sha256(self.name.encode()).hexdigest()[:8]}.json"
        path.write_text(json.dumps(asdict(self), ensure_ascii=False), encoding="utf-8")

    def summary(self, text: Path) -> str:
        metrics = self.texts[text.name].metrics
        kl, ratio = metrics.kl.mean.estimate, metrics.perplexity_ratio.estimate
        return f"{self.name} on {text.name}: KL {kl:.4f}, perplexity ratio {ratio:.4f}"


_KEPT = TypeAdapter(Kept)


@cache
def _digest(text: Path) -> str:
    return sha256_of([text])
