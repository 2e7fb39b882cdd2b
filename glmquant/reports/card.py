"""A bundle's model card, as the Hugging Face hub reads one: from its report, and without a date, a machine or a speed,
so that the same bundle gets the same card."""

from dataclasses import dataclass
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from glmquant.core.units import size
from glmquant.evaluation.results import AccuracyReport
from glmquant.inert import inert_markdown
from glmquant.reports.words import MARKS, coverage_notes, percent, points, rounded, sentences, size_ratio
from glmquant.store.base_card import BaseCard

TEMPLATE: Final = "card.md.j2"
GENERATES: Final = "text-generation"
CLASSIFIES: Final = "text-classification"


@dataclass(frozen=True)
class CardFacts:
    """What a card says beside the report.

    Attributes:
        base: what the base model's own card says.
        base_id: the base model's repository on the hub; None where that is not known.
        license_files: of the bundle, by name.
        classifies: the bundle labels texts, and generates none.
        multiplies_integers: see :func:`glmquant.runtime.session.multiplies_integers`.
    """

    base: BaseCard
    base_id: str | None
    license_files: tuple[str, ...]
    classifies: bool
    multiplies_integers: bool = False


def to_card(report: AccuracyReport, facts: CardFacts) -> str:
    """The whole ``README.md``: metadata in YAML, and Markdown for people."""
    environment = Environment(
        loader=PackageLoader("glmquant.reports", "."),
        autoescape=False,  # Markdown: what comes from files goes through the filter ``md``
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": lambda value: inert_markdown(str(value)), "size": size}
    return environment.get_template(TEMPLATE).render(
        report=report,
        setting=report.setting,
        subject=report.setting.subject,
        facts=facts,
        metadata=_metadata(report, facts),
        verdict=MARKS[report.verdict],
        ratio=size_ratio(report.setting),
        rows=_rows(report),
        notes=[*coverage_notes(report.coverage), *sentences(report.notes)],
    )


def _metadata(report: AccuracyReport, facts: CardFacts) -> str:
    from huggingface_hub import ModelCardData

    base = facts.base
    more: dict[str, Any] = {}
    if facts.base_id is not None:
        more = {"base_model": facts.base_id, "base_model_relation": "quantized"}
    bits = sorted({group.spec.bits for group in report.setting.groups if group.spec is not None})
    data: Any = ModelCardData(
        language=list(base.languages) or None,
        license=base.license,
        license_name=base.license_name,
        license_link=base.license_link,
        pipeline_tag=CLASSIFIES if facts.classifies else GENERATES,
        tags=["onnx", "onnxruntime", "glm", "glmquant", *(f"int{each}" for each in bits)],
        **more,
    )
    return str(data.to_yaml())


def _rows(report: AccuracyReport) -> list[tuple[str, str, str]]:
    """What was measured: name, the float checkpoint's, the bundle's."""
    rows = []
    if (language := report.language) is not None:
        rows += [
            ("perplexity per token", f"{language.baseline.per_token:.4f}", f"{language.candidate.per_token:.4f}"),
            ("perplexity ratio", "1", rounded(language.perplexity_ratio)),
            ("mean KL divergence (nats)", "0", rounded(language.kl.mean)),
            ("top-1 agreement", "100 %", percent(language.top1_agreement)),
        ]
    for task in report.tasks:
        rows += [
            (f"accuracy, {task.name}", f"{task.baseline.accuracy:.2%}", f"{task.candidate.accuracy:.2%}"),
            (f"accuracy drop, {task.name}", "", points(task.accuracy_drop)),
        ]
    return [(inert_markdown(name), before, after) for name, before, after in rows]
