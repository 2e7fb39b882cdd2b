"""The recipe's keys. Every knob lives here; unknown keys are errors."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from glmquant.core.spec import QuantSpec
from glmquant.methods import Method, Rtn, method_from_dict, method_to_dict


def _spec_from_dict(value: Any) -> Any:
    return QuantSpec(**value) if isinstance(value, dict) and set(value) <= {"bits", "group_size", "symmetric"} else value


Spec = Annotated[QuantSpec, BeforeValidator(_spec_from_dict)]
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
    spec: Spec | None = None
    method: AnyMethod = Rtn()

    @model_validator(mode="after")
    def _keep_or_spec(self) -> "Rule":
        if self.keep == (self.spec is not None):
            raise ValueError("a rule needs either `keep: true` or a `spec`")
        return self

    @property
    def typed_method(self) -> Method:
        method: Method = self.method
        return method


class ExportOptions(Section):
    """How the ONNX bundle is written."""

    profile: Literal["ort"] = "ort"
    dtype: Literal["float32", "float16"] = "float32"
    accuracy_level: Literal[0, 1, 2, 3, 4] = 4
    embedding: Spec | None = None
    kv_cache: Literal["float"] = "float"
    max_length: int = Field(8192, ge=1)


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


class Limits(Section):
    """What the quantised model may lose: worst acceptable values."""

    perplexity_ratio: float | None = Field(None, gt=0)
    mean_kl: float | None = Field(None, ge=0)
    top1_agreement: float | None = Field(None, ge=0, le=1)
    accuracy_drop: float | None = None


class CheckOptions(Section):
    """What the exported model is measured on, against the FP16 checkpoint."""

    text: tuple[str, ...] = ()
    num_tokens: int = Field(8192, ge=2)
    seq_len: int = Field(512, ge=2)
    tasks: tuple[Task, ...] = ()
    limits: Limits = Limits()


class Recipe(Section):
    version: Literal[1]
    description: str = ""
    model: Model = Model()
    calibration: CalibrationOptions = CalibrationOptions()
    rules: tuple[Rule, ...] = ()
    export: ExportOptions = ExportOptions()
    check: CheckOptions = CheckOptions()
