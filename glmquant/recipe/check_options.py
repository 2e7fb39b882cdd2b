"""What a recipe checks: texts, tasks, and the limits that decide the verdict."""

import math
from typing import Any, Literal

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.config import JsonDict
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from glmquant.recipe.section import (
    NATS,
    SHARE,
    TOKENS,
    Encoding,
    Section,
    encoding_key,
    label_field_key,
    text_field_key,
)


class FewShot(Section):
    """Solved examples shown before each question."""

    data: str = Field(description="A file of records like the task's own, relative to the recipe.")
    encoding: Encoding | None = Field(
        None, description="Encoding of that file's text, such as `gb18030`; null: the task's."
    )
    count: int = Field(
        5, ge=1, description="Number of examples: the first of the file.", json_schema_extra={"unit": "examples"}
    )


PLACEHOLDER = {"classification": "{text}", "multiple_choice": "{question}"}


class Task(Section):
    """A labeled set, scored by the likelihood of each answer after the prompt."""

    data: str = Field(
        description="Records as JSON, a table, Parquet or Excel (docs/data.md), relative to the recipe. Those of "
        "`classification` have a text and a label; those of `multiple_choice` have `question`, choices and `answer`."
    )
    encoding: Encoding | None = encoding_key()
    text_field: str | None = text_field_key()
    label_field: str | None = label_field_key()
    kind: Literal["classification", "multiple_choice"] = Field("classification", description="What the records are.")
    name: str | None = Field(None, description="Name in reports; null: that of the file.")
    prompt: str | None = Field(
        None,
        description="Prompt, with `{text}` in it, or `{question}` and, where letters are scored, `{choices}`; null: "
        "what suits the kind.",
    )
    labels: dict[str, str] = Field(
        {}, description="The word scored for each label of `classification`; a label that is absent stands for itself."
    )
    scoring: Literal["letter", "likelihood", "length_normalized"] | None = Field(
        None,
        description="What is scored for `multiple_choice`: the `letter` after the list of choices, or each choice's "
        "own text, by its `likelihood` or by that divided by its UTF-8 bytes (`length_normalized`); null: `letter`.",
    )
    few_shot: FewShot | None = Field(None, description="Solved examples shown before each question.")
    label_prior: Literal["keep", "remove"] = Field(
        "keep", description="`remove`: subtract the preference each model has for an answer whatever the text."
    )
    limit: int | None = Field(
        None, ge=1, description="Use only the first so many records.", json_schema_extra={"unit": "records"}
    )

    @property
    def template(self) -> str:
        """The prompt, or the kind's own."""
        if self.prompt is not None:
            return self.prompt
        if self.kind == "classification":
            return "{text}"
        return "{question}\n{choices}\nAnswer: " if self.by_letter else "{question}\nAnswer: "

    @property
    def by_letter(self) -> bool:
        """The letters of the choices are scored."""
        return self.kind == "multiple_choice" and self.scoring in (None, "letter")

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "Task":
        wanted = [PLACEHOLDER[self.kind], *(["{choices}"] if self.by_letter else [])]
        for placeholder in wanted:
            if self.template.count(placeholder) != 1:
                raise ValueError(f"prompt must contain {placeholder} exactly once")
        if self.kind == "classification" and self.scoring is not None:
            raise ValueError("scoring is for multiple_choice; classification always scores the labels' words")
        if self.kind == "multiple_choice" and self.labels:
            raise ValueError("labels are for classification; the choices of multiple_choice stand in the data")
        if self.label_prior == "remove" and self.kind == "multiple_choice" and not self.by_letter:
            raise ValueError("label_prior: remove needs answers common to all questions: labels or letters")
        return self


class Limit(Section):
    """The worst acceptable value of a metric; a bare number in a recipe stands for ``{value: number}``."""

    value: float = Field(allow_inf_nan=False, description="The worst acceptable value, in the metric's own unit.")
    on: Literal["interval", "estimate"] = Field(
        "interval",
        description="`interval`: a non-inferiority test by the 95 % confidence interval: met when all of it is within "
        "the value, missed when all of it is beyond, else inconclusive. `estimate`: the point estimate alone decides.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        is_number = isinstance(value, int | float | str) and not isinstance(value, bool)
        return {"value": value} if is_number else value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "number"}, handler.resolve_ref_schema(handler(schema))]}


POSITIVE, WHOLE, CHANGE = (1e-3, math.inf), (0.0, 1.0), (-1.0, 1.0)
RANGES = {
    "perplexity": POSITIVE,
    "perplexity_ratio": POSITIVE,
    "mean_kl": (0.0, math.inf),
    "top1_agreement": WHOLE,
    "routing_change": WHOLE,
    "accuracy": WHOLE,
    "accuracy_drop": CHANGE,
    "macro_f1": WHOLE,
    "macro_f1_drop": CHANGE,
}


def _limit(description: str, unit: JsonDict | None = None) -> Any:
    """A metric's limit; null: none."""
    return Field(None, description=description, json_schema_extra=unit)


class Limits(Section):
    """What the quantized model may lose against the FP16 checkpoint, and what it must reach.

    Limits of accuracy and F1 hold for each task.
    """

    perplexity: Limit | None = _limit("Highest perplexity per token of the quantized model.")
    perplexity_ratio: Limit | None = _limit("Highest ratio of its perplexity to the baseline's.")
    mean_kl: Limit | None = _limit("Highest mean KL divergence from the baseline's next-token distribution.", NATS)
    top1_agreement: Limit | None = _limit("Lowest share of tokens at which both find the same token likeliest.", SHARE)
    routing_change: Limit | None = _limit(
        "Of a model with routed experts, the highest share of tokens and layers whose set of experts is another.", SHARE
    )
    accuracy: Limit | None = _limit("Lowest accuracy of the quantized model.", SHARE)
    accuracy_drop: Limit | None = _limit("Highest accuracy of the baseline less that of the quantized model.", SHARE)
    macro_f1: Limit | None = _limit("Lowest macro-averaged F1 of the quantized model.", SHARE)
    macro_f1_drop: Limit | None = _limit("Highest macro F1 of the baseline less that of the quantized model.", SHARE)

    @model_validator(mode="after")
    def _possible(self) -> "Limits":
        for name, (lowest, highest) in RANGES.items():
            limit: Limit | None = getattr(self, name)
            if limit is not None and not lowest <= limit.value <= highest:
                percent = f"; {limit.value:g} % is {limit.value / 100:g}" if 1 < limit.value <= 100 else ""
                raise ValueError(
                    f"{name} is {limit.value:g}; it can only be between {lowest:g} and {highest:g}{percent}"
                )
        return self


class RegressionLimits(Section):
    """What the quantized model may lose against an earlier quantized one, whose report is compared."""

    perplexity_ratio: Limit | None = Field(
        Limit(value=1.02), description="Highest ratio of its perplexity to the earlier model's."
    )
    mean_kl_rise: Limit | None = _limit("Highest rise of the mean KL divergence from the baseline.", NATS)
    accuracy_drop: Limit | None = _limit("Highest accuracy of the earlier model less that of this one.", SHARE)
    macro_f1_drop: Limit | None = _limit("Highest macro F1 of the earlier model less that of this one.", SHARE)

    @model_validator(mode="after")
    def _possible(self) -> "RegressionLimits":
        lowest, limit = POSITIVE[0], self.perplexity_ratio
        if limit is not None and limit.value < lowest:
            raise ValueError(f"perplexity_ratio is {limit.value:g}; it can only be {lowest:g} or more")
        return self


class CheckOptions(Section):
    """What the exported model is measured on, against the FP16 checkpoint, and what decides the verdict."""

    text: tuple[str, ...] = Field(
        (),
        description="Held-out files for perplexity and KL divergence, relative to the recipe: text, or records with a "
        "text or a conversation (docs/data.md).",
    )
    encoding: Encoding | None = encoding_key()
    text_field: str | None = text_field_key()
    scored: Literal["all", "answers"] = Field(
        "all",
        description="Which tokens of conversations are scored: `all`, or those of the assistant's `answers`, the end "
        "of each included.",
    )
    num_tokens: int = Field(
        8192,
        ge=2,
        description="How many tokens of each text are used, rounded down to whole windows of `seq_len`.",
        json_schema_extra=TOKENS,
    )
    seq_len: int = Field(512, ge=2, description="Length of each window.", json_schema_extra=TOKENS)
    windows: Literal["even", "last"] = Field(
        "even",
        description="Where in a text its windows lie. `even`: spread evenly over all of it. `last`: one after the "
        "other at its end, where the beginning was calibrated on, or to compare with perplexities measured so.",
    )
    tasks: tuple[Task, ...] = Field((), description="Labeled sets to measure accuracy on.")
    prompts: tuple[str, ...] = Field(
        (),
        max_length=20,
        description="What both models are asked: their greedy answers stand side by side in the report, and decide "
        "nothing. The float model passes through its blocks once more for each place where the two differ.",
    )
    answer_tokens: int = Field(
        64, ge=1, le=1024, description="Most tokens of an answer to one of `prompts`.", json_schema_extra=TOKENS
    )
    limits: Limits = Field(Limits(), description="What the quantized model may lose against the FP16 checkpoint.")
    against: RegressionLimits = Field(
        RegressionLimits(), description="What it may lose against an earlier quantized model."
    )

    @model_validator(mode="after")
    def _one_window(self) -> "CheckOptions":
        if self.num_tokens < self.seq_len:
            raise ValueError(f"num_tokens is {self.num_tokens}, less than one window of seq_len {self.seq_len}")
        return self
