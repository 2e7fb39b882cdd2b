"""The recipe's keys. Every knob lives here; unknown keys are errors."""

import math
from dataclasses import asdict, fields
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, TypeAdapter, model_validator

from glmquant.core.matmul import Precision
from glmquant.core.spec import QuantSpec
from glmquant.errors import RecipeError
from glmquant.methods import METHODS, Method, Rtn


def method_from_dict(value: Any) -> Any:
    """A recipe's ``method: {kind: gptq, damping: 0.01}`` as the method itself; a method passes through.

    Raises:
        RecipeError: no method, or an unknown kind or option. Ill-typed options are pydantic's to report.
    """
    if isinstance(value, tuple(METHODS.values())):
        return value
    if not isinstance(value, dict):
        raise RecipeError(f"the method is {value!r:.80}", expected="its kind and options, e.g. {kind: rtn}")
    options = dict(value)
    kind = options.pop("kind", None)
    if not isinstance(kind, str) or kind not in METHODS:
        raise RecipeError(f"unknown method kind {kind!r}", expected=f"one of {', '.join(sorted(METHODS))}")
    unknown = sorted(set(options) - {field.name for field in fields(METHODS[kind])})  # type: ignore[arg-type]
    if unknown:
        raise RecipeError(f"method {kind} has no option {unknown[0]!r}", expected=_options_of(METHODS[kind]))
    return TypeAdapter(METHODS[kind]).validate_python(options)


def method_to_dict(method: Method) -> dict[str, Any]:
    """The inverse of :func:`method_from_dict`."""
    return {"kind": method.kind, **asdict(method)}  # type: ignore[call-overload]


def _options_of(method: type[Method]) -> str:
    names = [field.name for field in fields(method)]  # type: ignore[arg-type]
    return f"one of {', '.join(names)}" if names else "no options"


AnyMethod = Annotated[Any, BeforeValidator(method_from_dict), PlainSerializer(method_to_dict)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(Section):
    """What the checkpoint itself does not say."""

    family: Literal["chatglm2", "chatglm3", "codegeex2"] | None = None


class CalibrationOptions(Section):
    """Text in, fixed-length token samples out. Without ``data`` the packaged sample is used, and the log says so."""

    data: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    num_samples: int = Field(128, ge=1)
    seq_len: int = Field(2048, ge=8)
    seed: int = 0
    sampling: Literal["random", "sequential"] = "random"
    """``random``: windows chosen by the seed over the whole text; ``sequential``: the first ones, in order."""
    precision: Precision = "auto"
    """Of the operands of the samples' products; ``auto``: bfloat16 where the processor has instructions for it."""

    @model_validator(mode="after")
    def _one_weight_per_file(self) -> "CalibrationOptions":
        if self.weights and len(self.weights) != len(self.data):
            raise ValueError(f"{len(self.weights)} weights for {len(self.data)} files; give one a file, or none")
        if any(weight <= 0 for weight in self.weights):
            raise ValueError("weights must be above zero")
        return self


class Rule(Section):
    """Applies to every linear group whose name matches the glob ``match`` and that no rule above matched.

    ``alternatives`` are what ``allocate`` may choose instead of ``spec`` for each group; without it they mean nothing.
    """

    match: str
    keep: bool = False
    spec: QuantSpec | None = None
    alternatives: tuple[QuantSpec, ...] = ()
    method: AnyMethod = Rtn()

    @model_validator(mode="after")
    def _keep_or_spec(self) -> "Rule":
        if self.keep == (self.spec is not None):
            raise ValueError("a rule needs either `keep: true` or a `spec`")
        if self.keep and self.alternatives:
            raise ValueError("a rule with `keep: true` has no alternatives to a spec")
        return self


class Allocation(Section):
    """Mixed precision: a spec for each linear group that loses least within a budget.

    Groups whose rule has ``alternatives`` take part. ``average_bits`` is over the weights of those groups, scales and
    zero points included; ``megabytes`` is what they take together.
    """

    average_bits: float | None = Field(None, gt=0, le=16)
    megabytes: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _one_budget(self) -> "Allocation":
        if (self.average_bits is None) == (self.megabytes is None):
            raise ValueError("give either `average_bits` or `megabytes`")
        return self


class FitOptions(Section):
    """What the linears are fitted to, beyond rounding each for itself.

    ``equalize: true`` first evens out columns by factors that cancel exactly (:mod:`glmquant.glm.equalization`);
    needs no data. ``compensate`` is how much of what earlier linears lost each linear makes up for, 0 to 1: its weights
    move to where its inputs, as they are, give the float model's outputs
    (:mod:`glmquant.quantization.error_propagation`).
    ``token_weights: relative`` counts a token's error in the linears that write to the residual stream in proportion to
    that stream, which the next norm divides by; else a few tokens of enormous size decide.
    """

    equalize: bool = False
    compensate: float = Field(0.0, ge=0, le=1)
    token_weights: Literal["uniform", "relative"] = "uniform"


class StoreOptions(Section):
    """How the quantized checkpoint is written. transformers loads ``fused`` gate and up, GPTQModel ``split`` ones."""

    layout: Literal["fused", "split"] = "fused"


class ExportOptions(Section):
    """How the ONNX bundle is written.

    ``profile: ort`` uses ONNX Runtime's fused operators; ``standard`` plain ONNX, for other runtimes.
    ``accuracy_level`` is the least exact arithmetic that quantized products may use: 4 rounds activations to INT8, 1
    and 0 keep them in float32. At level 4 of ``standard`` a batch may answer otherwise than its rows one by one.
    ``kv_cache: int8`` and ``int4`` store keys and values with scales from a calibration, one a channel.
    ``dynamic_int8: true`` multiplies 8-bit linears in integers, each token's activations rounded to INT8 by its largest
    one: fast where many tokens are read at once, as in classification. It needs one scale a row (``group_size: -1``,
    symmetric), and a processor with VNNI, as without it ONNX Runtime's sums of products saturate.
    """

    profile: Literal["ort", "standard"] = "ort"
    dtype: Literal["float32", "float16"] = "float32"
    accuracy_level: Literal[0, 1, 2, 3, 4] = 4
    embedding: QuantSpec | None = None
    kv_cache: Literal["float", "int8", "int4"] = "float"
    max_length: int = Field(8192, ge=1)
    dynamic_int8: bool = False

    @model_validator(mode="after")
    def _can_be_written(self) -> "ExportOptions":
        if self.profile == "standard" and self.kv_cache != "float":
            raise ValueError(f"kv_cache: {self.kv_cache} needs `profile: ort`; no standard operator has such a cache")
        if self.profile == "standard" and self.embedding is not None and self.embedding.bits != 8:
            raise ValueError("profile: standard takes an embedding of 8 bits, or a float one")
        if self.dynamic_int8 and (self.profile, self.dtype) != ("ort", "float32"):
            raise ValueError("dynamic_int8 needs `profile: ort` and `dtype: float32`")
        return self


class TrainOptions(Section):
    """How a classifier is trained on labeled text.

    ``data`` is what `run` trains on before it quantizes: JSONL or CSV with ``text`` and ``label`` in each record, or a
    directory with a ``LABEL.txt`` for each label, a text a line. Where the recipe names no ``check.tasks``, a share
    ``test`` of each label's texts is held out for the check.
    ``mode: head`` trains the head alone, on features that the frozen model computes once, block by block; ``lora`` also
    low-rank additions to the blocks' linears (arXiv:2106.09685), ``full`` every weight: both hold the whole model in
    memory. ``epochs`` and ``learning_rate`` default to what suits the mode. Training stops after ``patience`` epochs
    without a better validation accuracy; the best epoch is kept. ``bias: true`` gives ChatGLM2's ``classifier_head``,
    ``false`` the ``score`` head that transformers loads. ``max_length`` counts tokens, the prefix included.
    """

    data: str | None = None
    test: float = Field(0.1, gt=0, lt=1)
    mode: Literal["head", "lora", "full"] = "head"
    bias: bool = False
    epochs: int | None = Field(None, ge=1)
    learning_rate: float | None = Field(None, gt=0, le=1)
    batch_size: int = Field(32, ge=1)
    weight_decay: float = Field(0.01, ge=0)
    class_weights: Literal["none", "balanced"] = "none"
    validation: float = Field(0.1, gt=0, lt=1)
    patience: int = Field(3, ge=1)
    max_length: int = Field(512, ge=2)
    precision: Literal["float32", "bfloat16"] = "float32"
    rank: int = Field(8, ge=1)
    seed: int = 0

    def identity(self) -> dict[str, Any]:
        """What decides the trained weights beside the examples, in values JSON has."""
        return self.model_dump(mode="json", exclude={"data", "test"})


class FewShot(Section):
    """Solved examples shown before each question: the first ``count`` of a file like the task's own."""

    data: str
    count: int = Field(5, ge=1)


PLACEHOLDER = {"classification": "{text}", "multiple_choice": "{question}"}


class Task(Section):
    """A labeled set scored by the likelihood of each answer after the prompt.

    ``classification``: records have ``text`` and ``label``; ``labels`` maps a label to the word scored for it (default:
    itself). ``multiple_choice``: records have ``question``, choices and ``answer``; ``scoring`` says whether the letter
    after the list of choices is scored (``letter``), or each choice's own text, as it is (``likelihood``) or divided by
    its UTF-8 bytes (``length_normalized``).

    ``prompt`` has ``{text}`` in it, or ``{question}`` and, for letters, ``{choices}``; ``label_prior: remove`` takes
    out what each model prefers whatever the text.
    """

    data: str
    kind: Literal["classification", "multiple_choice"] = "classification"
    name: str | None = None
    prompt: str | None = None
    labels: dict[str, str] = {}
    scoring: Literal["letter", "likelihood", "length_normalized"] | None = None
    few_shot: FewShot | None = None
    label_prior: Literal["keep", "remove"] = "keep"
    limit: int | None = Field(None, ge=1)

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
    """The worst acceptable value of a metric; a bare number in a recipe stands for ``{value: number}``.

    ``on: interval``: missed when the whole 95 % interval lies beyond the value, met when it lies within, else
    inconclusive.
    ``on: estimate``: the point estimate alone decides.
    """

    value: float = Field(allow_inf_nan=False)
    on: Literal["interval", "estimate"] = "interval"

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return {"value": value} if is_number else value


POSITIVE, SHARE, CHANGE = (1e-3, math.inf), (0.0, 1.0), (-1.0, 1.0)
RANGES = {
    "perplexity": POSITIVE,
    "perplexity_ratio": POSITIVE,
    "mean_kl": (0.0, math.inf),
    "top1_agreement": SHARE,
    "accuracy": SHARE,
    "accuracy_drop": CHANGE,
    "macro_f1": SHARE,
    "macro_f1_drop": CHANGE,
}


class Limits(Section):
    """What the quantized model may lose, and what it must reach.

    Relative to the baseline: ``perplexity_ratio``, ``mean_kl`` (nats), ``accuracy_drop`` and ``macro_f1_drop`` (the
    baseline's less the candidate's) are upper limits, ``top1_agreement`` is a lower one. Of the candidate alone:
    ``perplexity`` (a token) is an upper limit, ``accuracy`` and ``macro_f1`` are lower ones. Those of tasks hold for
    each task.
    """

    perplexity: Limit | None = None
    perplexity_ratio: Limit | None = None
    mean_kl: Limit | None = None
    top1_agreement: Limit | None = None
    accuracy: Limit | None = None
    accuracy_drop: Limit | None = None
    macro_f1: Limit | None = None
    macro_f1_drop: Limit | None = None

    @model_validator(mode="after")
    def _possible(self) -> "Limits":
        for name, (lowest, highest) in RANGES.items():
            limit: Limit | None = getattr(self, name)
            if limit is not None and not lowest <= limit.value <= highest:
                raise ValueError(f"{name} is {limit.value:g}; it can only be between {lowest:g} and {highest:g}")
        return self


class RegressionLimits(Section):
    """What the quantized model may lose against an earlier one (``check --against``), as upper limits.

    ``mean_kl_rise``: how much further from the baseline it may be, in nats.
    """

    perplexity_ratio: Limit | None = Limit(value=1.02)
    mean_kl_rise: Limit | None = None
    accuracy_drop: Limit | None = None
    macro_f1_drop: Limit | None = None


class CheckOptions(Section):
    """What the exported model is measured on, against the FP16 checkpoint.

    ``num_tokens`` is how many of the last tokens of each text are used, rounded down to whole windows of ``seq_len``.
    """

    text: tuple[str, ...] = ()
    num_tokens: int = Field(8192, ge=2)
    seq_len: int = Field(512, ge=2)
    tasks: tuple[Task, ...] = ()
    limits: Limits = Limits()
    against: RegressionLimits = RegressionLimits()

    @model_validator(mode="after")
    def _one_window(self) -> "CheckOptions":
        if self.num_tokens < self.seq_len:
            raise ValueError(f"num_tokens is {self.num_tokens}, less than one window of seq_len {self.seq_len}")
        return self


class Recipe(Section):
    version: Literal[1]
    description: str = ""
    model: Model = Model()
    calibration: CalibrationOptions = CalibrationOptions()
    rules: tuple[Rule, ...] = ()
    allocate: Allocation | None = None
    fit: FitOptions = FitOptions()
    store: StoreOptions = StoreOptions()
    train: TrainOptions = TrainOptions()
    export: ExportOptions = ExportOptions()
    check: CheckOptions = CheckOptions()

    @model_validator(mode="after")
    def _something_to_choose(self) -> "Recipe":
        if self.allocate is not None and not any(rule.alternatives for rule in self.rules):
            raise ValueError("allocate: no rule has `alternatives` to choose from")
        return self

    def identity(self) -> dict[str, Any]:
        """What decides the quantized weights, in values JSON has; files by name, since their content is hashed."""
        parts = self.model_dump(
            mode="json", include={"version", "description", "model", "calibration", "rules", "allocate", "fit", "store"}
        )
        parts["calibration"]["data"] = [PurePath(name).name for name in self.calibration.data]
        return parts
