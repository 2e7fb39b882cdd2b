"""The recipe: its sections and their keys, described where they are declared. What a check decides by and what a method
takes have files of their own, :mod:`glmquant.recipe.check_options` and :mod:`glmquant.recipe.method_options`.

``docs/recipe.md`` and the JSON Schema that editors complete recipes by are generated from these descriptions
(:mod:`glmquant.recipe.reference`). A key's unit stands beside its description, as ``json_schema_extra``.
"""

import math
from pathlib import PurePath
from typing import Any, Literal

from pydantic import Field, model_validator

from glmquant.core.matmul import Precision
from glmquant.core.spec import QuantSpec
from glmquant.methods import Rtn
from glmquant.methods.registry import own_sources
from glmquant.recipe.check_options import CheckOptions
from glmquant.recipe.method_options import AnyMethod
from glmquant.recipe.section import (
    EPOCHS,
    SHARE,
    TOKENS,
    Encoding,
    Section,
    encoding_key,
    label_field_key,
    text_field_key,
)


class Model(Section):
    """What the checkpoint itself does not say."""

    family: Literal["chatglm2", "chatglm3", "codegeex2", "glm-4"] | None = Field(
        None,
        description="Lineage of a checkpoint in the publisher's `chatglm` layout whose names and tokenizer do not tell "
        "it. Decides the chat template and how `rope_ratio` acts.",
    )


class CalibrationOptions(Section):
    """Text in, calibration samples of a fixed number of tokens out.

    Methods that need the Hessian of a layer's inputs (GPTQ), error propagation, mixed precision and a quantized KV
    cache are calibrated on these samples. Without ``data`` the packaged text is used, and the log says so.
    """

    data: tuple[str, ...] = Field(
        (),
        description="Files to sample from, relative to the recipe: text, or records with a text or a conversation, "
        "as JSON, a table, Parquet or Excel, compressed or not (docs/data.md). `glmquant:calibration.txt` is the "
        "packaged text.",
    )
    encoding: Encoding | None = encoding_key()
    text_field: str | None = text_field_key()
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
        if any(not 0 < weight < math.inf for weight in self.weights) or math.isinf(sum(self.weights)):
            raise ValueError("weights must be above zero, and finite together")
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
        "(`group_size: -1`, symmetric). A session of your own needs `session.x64quantprecision=1` where the processor "
        "lacks VNNI: ONNX Runtime's sums saturate without.",
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
        description="What `run` trains on before it quantizes: records with a text and a label, as JSON, a table, "
        "Parquet or Excel, or a directory with a `LABEL.txt` for each label, one text a line, or a `LABEL/` with a "
        "text a file (docs/data.md). Relative to the recipe.",
    )
    encoding: Encoding | None = encoding_key()
    text_field: str | None = text_field_key()
    label_field: str | None = label_field_key()
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
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the split, of initial weights and of the order of texts.")

    def identity(self) -> dict[str, Any]:
        """What decides the trained weights beside the examples, in values JSON has."""
        return self.model_dump(mode="json", exclude={"data", "test", "encoding", "text_field", "label_field"})


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
        """What a manifest says of the recipe, in values JSON has; files by name, since their content is hashed."""
        parts = self.model_dump(
            mode="json", include={"version", "description", "model", "calibration", "rules", "allocate", "fit", "store"}
        )
        calibration = parts["calibration"]
        calibration["data"] = [PurePath(name).name for name in self.calibration.data]
        for key in ("encoding", "text_field"):  # which say how to read what is hashed itself
            del calibration[key]
        return parts | self._own_methods()

    def weights_identity(self) -> dict[str, Any]:
        """The part of :meth:`identity` that decides what a model's weights become on given calibration tokens."""
        parts = self.model_dump(mode="json", include={"version", "model", "rules", "allocate", "fit", "store"})
        return parts | self._own_methods()

    def _own_methods(self) -> dict[str, Any]:
        """Methods of the user's own by a hash of their code; no key where there are none."""
        sources = own_sources([rule.method for rule in self.rules])
        return {"methods": sources} if sources else {}
