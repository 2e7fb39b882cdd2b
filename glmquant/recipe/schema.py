"""The recipe's keys. Every knob lives here; unknown keys are errors."""

import math
from dataclasses import asdict, fields
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, TypeAdapter, model_validator

from glmquant.core.spec import QuantSpec
from glmquant.errors import RecipeError
from glmquant.methods import METHODS, Method, Rtn


def method_from_dict(value: Any) -> Any:
    """A recipe's ``method: {kind: gptq, damping: 0.01}`` as the method itself; a method passes through.

    Raises:
        RecipeError: an unknown kind or option. Ill-typed options are pydantic's to report.
    """
    if not isinstance(value, dict):
        return value
    options = dict(value)
    kind = options.pop("kind", None)
    if kind not in METHODS:
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

    @model_validator(mode="after")
    def _one_weight_per_file(self) -> "CalibrationOptions":
        if self.weights and len(self.weights) != len(self.data):
            raise ValueError(f"{len(self.weights)} weights for {len(self.data)} files; give one a file, or none")
        if any(weight <= 0 for weight in self.weights):
            raise ValueError("weights must be above zero")
        return self


class Rule(Section):
    """Applies to every linear group whose name matches the glob ``match`` and that no rule above matched."""

    match: str
    keep: bool = False
    spec: QuantSpec | None = None
    method: AnyMethod = Rtn()

    @model_validator(mode="after")
    def _keep_or_spec(self) -> "Rule":
        if self.keep == (self.spec is not None):
            raise ValueError("a rule needs either `keep: true` or a `spec`")
        return self


class StoreOptions(Section):
    """How the quantised checkpoint is written. transformers loads ``fused`` gate and up, GPTQModel ``split`` ones."""

    layout: Literal["fused", "split"] = "fused"


class ExportOptions(Section):
    """How the ONNX bundle is written.

    ``profile: ort`` uses ONNX Runtime's fused operators; ``standard`` plain ONNX, for other runtimes.
    ``kv_cache: int8`` and ``int4`` store keys and values with scales from a calibration, one a channel.
    """

    profile: Literal["ort", "standard"] = "ort"
    dtype: Literal["float32", "float16"] = "float32"
    accuracy_level: Literal[0, 1, 2, 3, 4] = 4
    embedding: QuantSpec | None = None
    kv_cache: Literal["float", "int8", "int4"] = "float"
    max_length: int = Field(8192, ge=1)

    @model_validator(mode="after")
    def _can_be_written(self) -> "ExportOptions":
        if self.profile == "standard" and self.kv_cache != "float":
            raise ValueError(f"kv_cache: {self.kv_cache} needs `profile: ort`; no standard operator has such a cache")
        if self.profile == "standard" and self.embedding is not None and self.embedding.bits != 8:
            raise ValueError("profile: standard takes an embedding of 8 bits, or a float one")
        return self


class Task(Section):
    """A labelled set scored by the likelihood of each label's word after the prompt.

    ``prompt`` has ``{text}`` in it; ``labels`` maps a label in the data to the word scored for it (default: itself).
    """

    data: str
    kind: Literal["classification"] = "classification"
    name: str | None = None
    prompt: str = "{text}"
    labels: dict[str, str] = {}
    limit: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _has_text(self) -> "Task":
        if self.prompt.count("{text}") != 1:
            raise ValueError("prompt must contain {text} exactly once")
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


class Limits(Section):
    """What the quantised model may lose. Ratio, KL (nats) and drop are upper limits, agreement is a lower one.

    ``accuracy_drop`` is the baseline's accuracy less the candidate's, of each task.
    """

    perplexity_ratio: Limit | None = None
    mean_kl: Limit | None = None
    top1_agreement: Limit | None = None
    accuracy_drop: Limit | None = None

    @model_validator(mode="after")
    def _possible(self) -> "Limits":
        for name, lowest, highest in (
            ("perplexity_ratio", 1e-3, math.inf),
            ("mean_kl", 0, math.inf),
            ("top1_agreement", 0, 1),
            ("accuracy_drop", -1, 1),
        ):
            limit: Limit | None = getattr(self, name)
            if limit is not None and not lowest <= limit.value <= highest:
                raise ValueError(f"{name} is {limit.value:g}; it can only be between {lowest} and {highest}")
        return self


class CheckOptions(Section):
    """What the exported model is measured on, against the FP16 checkpoint.

    ``num_tokens`` is how many of the last tokens of each text are used, rounded down to whole windows of ``seq_len``.
    """

    text: tuple[str, ...] = ()
    num_tokens: int = Field(8192, ge=2)
    seq_len: int = Field(512, ge=2)
    tasks: tuple[Task, ...] = ()
    limits: Limits = Limits()

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
    store: StoreOptions = StoreOptions()
    export: ExportOptions = ExportOptions()
    check: CheckOptions = CheckOptions()

    def identity(self) -> dict[str, Any]:
        """What decides the quantised weights, in values JSON has; files by name, since their content is hashed."""
        parts = self.model_dump(
            mode="json", include={"version", "description", "model", "calibration", "rules", "store"}
        )
        parts["calibration"]["data"] = [PurePath(name).name for name in self.calibration.data]
        return parts
