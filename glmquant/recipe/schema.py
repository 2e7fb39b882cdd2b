"""The recipe's keys: every knob of glmquant lives here, described where it is declared. Unknown keys are errors.

``docs/recipe.md`` and the JSON Schema that editors complete recipes by are generated from these descriptions
(:mod:`glmquant.recipe.reference`). A key's unit stands beside its description, as ``json_schema_extra``.
"""

import math
from collections.abc import Callable
from dataclasses import MISSING, asdict, fields
from functools import cache, reduce
from operator import or_
from pathlib import PurePath
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, TypeAdapter, create_model, model_validator
from pydantic.config import JsonDict
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from glmquant.core.matmul import Precision
from glmquant.core.spec import QuantSpec
from glmquant.errors import RecipeError
from glmquant.methods import METHODS, Method, Rtn

TOKENS: JsonDict = {"unit": "tokens"}
NATS: JsonDict = {"unit": "nats per token"}
SHARE: JsonDict = {"unit": "share, 0 to 1"}
EPOCHS: JsonDict = {"unit": "epochs"}


class Section(BaseModel):
    """Keys of a recipe. Unknown keys are errors, and a recipe does not change once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@cache
def _options_model(kind: str, method: type[Method]) -> type[Section]:
    """The options of a method as keys, with ``kind`` to tell it by."""
    hints = get_type_hints(method, include_extras=True)
    options: dict[str, Any] = {
        field.name: (hints[field.name], _default(field.default, field.default_factory))
        for field in fields(method)  # type: ignore[arg-type]
        if field.init
    }
    tag: Any = Literal[kind]
    name = Field(description=f"Selects this method: `{kind}`.")
    return create_model(method.__name__, __base__=Section, __doc__=method.__doc__, kind=(tag, name), **options)


def _default(value: Any, factory: Any) -> Any:
    if factory is not MISSING:
        return Field(default_factory=factory)
    return ... if value is MISSING else value


@cache
def _union_of(methods: tuple[tuple[str, type[Method]], ...]) -> TypeAdapter[Any]:
    options: Any = reduce(or_, (_options_model(kind, method) for kind, method in methods))
    union: Any = Annotated[options, Field(discriminator="kind")]
    return TypeAdapter(union)


def method_options() -> TypeAdapter[Any]:
    """The options of every method in :data:`glmquant.methods.METHODS` as it stands now: a union discriminated by
    ``kind``."""
    return _union_of(tuple(METHODS.items()))


def method_from_dict(value: Any) -> Any:
    """A recipe's ``method: {kind: gptq, damping: 0.01}`` as the method itself; a method passes through.

    Raises:
        ValidationError: no method, an unknown kind or option, or an option that is ill-typed or out of range.
        RecipeError: no kind, or what the method itself refuses.
    """
    if isinstance(value, tuple(METHODS.values())):
        return value
    if isinstance(value, dict) and not isinstance(value.get("kind"), str):
        raise RecipeError("the method does not say its kind", expected=f"kind: one of {', '.join(sorted(METHODS))}")
    options = method_options().validate_python(value)
    return METHODS[options.kind](
        **{name: getattr(options, name) for name in type(options).model_fields if name != "kind"}
    )


def method_to_dict(method: Method) -> dict[str, Any]:
    """The inverse of :func:`method_from_dict`."""
    return {"kind": method.kind, **asdict(method)}  # type: ignore[call-overload]


class _FromMethods:
    """Tells pydantic how a key that names a method is read, written and described, whatever METHODS holds by then."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        written = core_schema.plain_serializer_function_ser_schema(method_to_dict)
        return core_schema.no_info_plain_validator_function(method_from_dict, serialization=written)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(method_options().core_schema)


AnyMethod = Annotated[Any, _FromMethods]


class Model(Section):
    """What the checkpoint itself does not say."""

    family: Literal["chatglm2", "chatglm3", "codegeex2"] | None = Field(
        None,
        description="Lineage of a checkpoint in the publisher's `chatglm` layout whose `_name_or_path` does not tell "
        "it. Decides the chat template and how `rope_ratio` acts.",
    )


class CalibrationOptions(Section):
    """Text in, calibration samples of a fixed number of tokens out.

    Methods that need the Hessian of a layer's inputs (GPTQ), error propagation, mixed precision and a quantized KV
    cache are calibrated on these samples. Without ``data`` the packaged text is used, and the log says so.
    """

    data: tuple[str, ...] = Field(
        (),
        description="Text files to sample from, relative to the recipe: UTF-8 text, or JSONL with a `text` in each "
        "record. `glmquant:calibration.txt` is the packaged text.",
    )
    weights: tuple[float, ...] = Field(
        (), description="How much of the samples each file gives, relative to the others: one a file, above zero."
    )
    num_samples: int = Field(
        128, ge=1, description="Number of calibration samples.", json_schema_extra={"unit": "samples"}
    )
    seq_len: int = Field(2048, ge=8, description="Length of each calibration sample.", json_schema_extra=TOKENS)
    seed: int = Field(0, description="Seed of the random choice of samples.")
    sampling: Literal["random", "sequential"] = Field(
        "random",
        description="`random`: windows chosen by the seed over the whole text. `sequential`: the first ones, in order.",
    )
    precision: Precision = Field(
        "auto",
        description="Precision of the operands of matrix products in the calibration's forward pass; sums are "
        "float32. `auto`: bfloat16 where the processor has instructions for it, else float32.",
    )

    @model_validator(mode="after")
    def _one_weight_per_file(self) -> "CalibrationOptions":
        if self.weights and len(self.weights) != len(self.data):
            raise ValueError(f"{len(self.weights)} weights for {len(self.data)} files; give one a file, or none")
        if any(weight <= 0 for weight in self.weights):
            raise ValueError("weights must be above zero")
        return self


class Rule(Section):
    """How the linear layers whose names match are quantized. The first rule that matches a layer wins; a layer that no
    rule matches stays float."""

    match: str = Field(
        description="Glob over the names of linear layers, such as `layers.*`, `layers.3.self_attn.qkv_proj`, "
        "`*.down_proj` or `lm_head`; q, k and v are one, as are gate and up."
    )
    keep: bool = Field(False, description="Keep these layers float. A rule has either `keep: true` or a `spec`.")
    spec: QuantSpec | None = Field(None, description="Bits, group size and symmetry of the quantized weights.")
    alternatives: tuple[QuantSpec, ...] = Field(
        (),
        description="Specs that `allocate` may choose for each layer instead of `spec`; they mean nothing without it.",
    )
    method: AnyMethod = Field(
        Rtn(),
        description="The quantization method and its options, by `kind`.",
        json_schema_extra={"default": {"kind": Rtn.kind}},
    )

    @model_validator(mode="after")
    def _keep_or_spec(self) -> "Rule":
        if self.keep == (self.spec is not None):
            raise ValueError("a rule needs either `keep: true` or a `spec`")
        if self.keep and self.alternatives:
            raise ValueError("a rule with `keep: true` has no alternatives to a spec")
        return self


class Allocation(Section):
    """Mixed precision: to each linear layer whose rule has ``alternatives`` the spec that keeps the total sensitivity
    lowest within a budget. Give either budget."""

    average_bits: float | None = Field(
        None,
        gt=0,
        le=16,
        description="Budget in bits per weight, scales and zero points included, averaged over the weights of the "
        "layers that take part.",
        json_schema_extra={"unit": "bits per weight"},
    )
    megabytes: float | None = Field(
        None,
        gt=0,
        description="Budget for the layers that take part, together.",
        json_schema_extra={"unit": "megabytes, of 1,000,000 bytes"},
    )

    @model_validator(mode="after")
    def _one_budget(self) -> "Allocation":
        if (self.average_bits is None) == (self.megabytes is None):
            raise ValueError("give either `average_bits` or `megabytes`")
        return self


class FitOptions(Section):
    """What is done to weights before they are rounded."""

    equalize: bool = Field(
        False,
        description="Cross-layer equalization (Nagel et al. 2019, arXiv:1906.04721): scale channels by factors that "
        "cancel exactly, so that weights that share a scale are of one size. Needs no data.",
    )
    error_propagation: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Strength of quantization error propagation (QEP, arXiv:2504.09629): before a layer is quantized, "
        "its weights are corrected for the error that layers quantized before it left in its inputs, and where its "
        "output is added to the residual stream, for the error of that stream. 0: off, 1: in full. Needs calibration "
        "samples, and a second forward pass, of the float model.",
        json_schema_extra=SHARE,
    )
    token_weights: Literal["uniform", "relative"] = Field(
        "uniform",
        description="Weight of each token's error in the layers that write to the residual stream. `relative`: in "
        "inverse proportion to the stream's mean square there, which the next norm divides by; `uniform`: all the "
        "same, so that a few tokens of enormous activations decide.",
    )


class StoreOptions(Section):
    """How the quantized checkpoint is written."""

    layout: Literal["fused", "split"] = Field(
        "fused",
        description="Whether an MLP's gate and up are one tensor (`fused`, which transformers loads) or two (`split`, "
        "which GPTQModel loads).",
    )


class ExportOptions(Section):
    """How the ONNX bundle is written."""

    profile: Literal["ort", "standard"] = Field(
        "ort",
        description="Operators: `ort` takes ONNX Runtime's fused ones, `standard` plain ONNX, for other runtimes.",
    )
    dtype: Literal["float32", "float16"] = Field("float32", description="Type of activations and of float weights.")
    accuracy_level: Literal[0, 1, 2, 3, 4] = Field(
        4,
        description="The least exact arithmetic that quantized products may use (`accuracy_level` of `MatMulNBits`): "
        "4 rounds activations to INT8, 1 and 0 keep them in float32. At level 4 of `standard`, results of a batch may "
        "differ from those of its rows one by one.",
    )
    embedding: QuantSpec | None = Field(None, description="Quantizes the token embedding, by rounding to nearest.")
    kv_cache: Literal["float", "int8", "int4"] = Field(
        "float",
        description="Type of the KV cache. `int8` and `int4` have one scale a channel, from calibration, and need "
        "`profile: ort`.",
    )
    max_length: int = Field(
        8192,
        ge=1,
        description="Longest sequence, prompt and answer together, that the model can take.",
        json_schema_extra=TOKENS,
    )
    dynamic_int8: bool = Field(
        False,
        description="Multiply 8-bit linear layers in integers, activations quantized dynamically to INT8 with one "
        "scale a token: fast where many tokens are read at once, as in classification. Needs one scale a row "
        "(`group_size: -1`, symmetric), and a processor with VNNI, as without it ONNX Runtime's sums saturate.",
    )

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
    """How a text classifier is trained on labeled text. The epoch with the best validation accuracy is kept."""

    data: str | None = Field(
        None,
        description="What `run` trains on before it quantizes: JSONL or CSV with `text` and `label` in each record, "
        "or a directory with a `LABEL.txt` for each label, one text a line. Relative to the recipe.",
    )
    test: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Share of each label's texts held out for the check, where the recipe names no `check.tasks`.",
        json_schema_extra=SHARE,
    )
    mode: Literal["head", "lora", "full"] = Field(
        "head",
        description="`head`: train the classification head alone, on features of the frozen model, computed block by "
        "block. `lora`: also low-rank additions to the blocks' linear layers (arXiv:2106.09685). `full`: every "
        "weight. `lora` and `full` hold the whole model in memory.",
    )
    bias: bool = Field(
        False,
        description="Whether the head has a bias: `true` gives ChatGLM2's `classifier_head`, `false` the `score` head "
        "that transformers loads.",
    )
    epochs: int | None = Field(
        None,
        ge=1,
        description="Most passes over the training texts; null: what suits the mode.",
        json_schema_extra=EPOCHS,
    )
    learning_rate: float | None = Field(None, gt=0, le=1, description="Peak learning rate; null: what suits the mode.")
    batch_size: int = Field(32, ge=1, description="Texts in each training step.", json_schema_extra={"unit": "texts"})
    weight_decay: float = Field(0.01, ge=0, description="Decoupled weight decay (AdamW).")
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="`balanced`: weigh labels in inverse proportion to their number of texts."
    )
    validation: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Share of each label's training texts used to choose the best epoch.",
        json_schema_extra=SHARE,
    )
    patience: int = Field(
        3, ge=1, description="Stop after so many epochs without a better validation accuracy.", json_schema_extra=EPOCHS
    )
    max_length: int = Field(
        512, ge=2, description="Cut texts after so many tokens, the model's prefix included.", json_schema_extra=TOKENS
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Precision of the model's forward and backward passes."
    )
    rank: int = Field(8, ge=1, description="Rank of the low-rank additions of `mode: lora`.")
    seed: int = Field(0, description="Seed of the split, of initial weights and of the order of texts.")

    def identity(self) -> dict[str, Any]:
        """What decides the trained weights beside the examples, in values JSON has."""
        return self.model_dump(mode="json", exclude={"data", "test"})


class FewShot(Section):
    """Solved examples shown before each question."""

    data: str = Field(description="A file of records like the task's own, relative to the recipe.")
    count: int = Field(
        5, ge=1, description="Number of examples: the first of the file.", json_schema_extra={"unit": "examples"}
    )


PLACEHOLDER = {"classification": "{text}", "multiple_choice": "{question}"}


class Task(Section):
    """A labeled set, scored by the likelihood of each answer after the prompt."""

    data: str = Field(
        description="JSONL or CSV, relative to the recipe. Records of `classification` have `text` and `label`; those "
        "of `multiple_choice` have `question`, choices and `answer`."
    )
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
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
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
    accuracy: Limit | None = _limit("Lowest accuracy of the quantized model.", SHARE)
    accuracy_drop: Limit | None = _limit("Highest accuracy of the baseline less that of the quantized model.", SHARE)
    macro_f1: Limit | None = _limit("Lowest macro-averaged F1 of the quantized model.", SHARE)
    macro_f1_drop: Limit | None = _limit("Highest macro F1 of the baseline less that of the quantized model.", SHARE)

    @model_validator(mode="after")
    def _possible(self) -> "Limits":
        for name, (lowest, highest) in RANGES.items():
            limit: Limit | None = getattr(self, name)
            if limit is not None and not lowest <= limit.value <= highest:
                raise ValueError(f"{name} is {limit.value:g}; it can only be between {lowest:g} and {highest:g}")
        return self


class RegressionLimits(Section):
    """What the quantized model may lose against an earlier quantized one, whose report is compared."""

    perplexity_ratio: Limit | None = Field(
        Limit(value=1.02), description="Highest ratio of its perplexity to the earlier model's."
    )
    mean_kl_rise: Limit | None = _limit("Highest rise of the mean KL divergence from the baseline.", NATS)
    accuracy_drop: Limit | None = _limit("Highest accuracy of the earlier model less that of this one.", SHARE)
    macro_f1_drop: Limit | None = _limit("Highest macro F1 of the earlier model less that of this one.", SHARE)


class CheckOptions(Section):
    """What the exported model is measured on, against the FP16 checkpoint, and what decides the verdict."""

    text: tuple[str, ...] = Field(
        (), description="Held-out text files for perplexity and KL divergence, relative to the recipe."
    )
    num_tokens: int = Field(
        8192,
        ge=2,
        description="How many of the last tokens of each text are used, rounded down to whole windows of `seq_len`.",
        json_schema_extra=TOKENS,
    )
    seq_len: int = Field(512, ge=2, description="Length of each window.", json_schema_extra=TOKENS)
    tasks: tuple[Task, ...] = Field((), description="Labeled sets to measure accuracy on.")
    limits: Limits = Field(Limits(), description="What the quantized model may lose against the FP16 checkpoint.")
    against: RegressionLimits = Field(
        RegressionLimits(), description="What it may lose against an earlier quantized model."
    )

    @model_validator(mode="after")
    def _one_window(self) -> "CheckOptions":
        if self.num_tokens < self.seq_len:
            raise ValueError(f"num_tokens is {self.num_tokens}, less than one window of seq_len {self.seq_len}")
        return self


class Recipe(Section):
    """All that decides what a checkpoint is turned into and what it must then prove."""

    version: Literal[1] = Field(description="Version of the recipe's format: 1.")
    description: str = Field("", description="What the recipe is for, in a line.")
    model: Model = Field(Model(), description="What the checkpoint does not tell.")
    calibration: CalibrationOptions = Field(CalibrationOptions(), description="Which text calibrates.")
    rules: tuple[Rule, ...] = Field((), description="How each linear layer is quantized; without rules, none is.")
    allocate: Allocation | None = Field(None, description="Mixed precision within a budget.")
    fit: FitOptions = Field(FitOptions(), description="Equalization and error propagation, before rounding.")
    store: StoreOptions = Field(StoreOptions(), description="The quantized checkpoint.")
    train: TrainOptions = Field(TrainOptions(), description="How a text classifier is trained.")
    export: ExportOptions = Field(ExportOptions(), description="The ONNX bundle.")
    check: CheckOptions = Field(CheckOptions(), description="What the exported model must prove.")

    @model_validator(mode="after")
    def _something_to_choose(self) -> "Recipe":
        if self.allocate is not None and not any(rule.alternatives for rule in self.rules):
            raise ValueError("allocate: no rule has `alternatives` to choose from")
        return self

    def __repr__(self) -> str:
        return f"<Recipe {self.description.rstrip('.') or 'without description'}: {len(self.rules)} rules>"

    def identity(self) -> dict[str, Any]:
        """What decides the quantized weights, in values JSON has; files by name, since their content is hashed."""
        parts = self.model_dump(
            mode="json", include={"version", "description", "model", "calibration", "rules", "allocate", "fit", "store"}
        )
        parts["calibration"]["data"] = [PurePath(name).name for name in self.calibration.data]
        return parts
