"""glmquant: a GLM checkpoint to a small, fast, proven ONNX model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from glmquant.core.mkl import round_as_one_thread

__version__ = "0.1.0"

round_as_one_thread()  # before torch multiplies

if TYPE_CHECKING:
    from glmquant.api import (
        calibrate,
        check,
        classify,
        compare,
        compare_recipes,
        compare_reports,
        export,
        generate,
        inspect,
        open_chat,
        push,
        quantize,
        read_report,
        report,
        run,
        train_classifier,
        verify,
    )
    from glmquant.data.calibration import Calibration, CalibrationSet
    from glmquant.errors import (
        CalibrationError,
        CheckError,
        CheckpointError,
        DataError,
        DeviceError,
        ExportError,
        GenerationError,
        GlmQuantError,
        HubError,
        OutputError,
        QuantizationError,
        RecipeError,
        ServeError,
        TrainingError,
    )
    from glmquant.evaluation.results import AccuracyReport
    from glmquant.hub.push import Push
    from glmquant.methods.registry import METHODS, register_method
    from glmquant.onnx_export.bundle import OnnxBundle
    from glmquant.quantization.diagnosis import Comparison
    from glmquant.quantization.summary import ModelSummary
    from glmquant.recipe.load import load_recipe
    from glmquant.recipe.packaged import packaged_recipes
    from glmquant.recipe.schema import Recipe
    from glmquant.reports.comparison import ReportComparison
    from glmquant.runtime.chat import Chat
    from glmquant.runtime.classify import Classification
    from glmquant.runtime.sampling import GenerationOptions
    from glmquant.store.checkpoint import Checkpoint
    from glmquant.store.verify import Verification
    from glmquant.train.report import TrainingReport

__all__ = [
    "METHODS",
    "AccuracyReport",
    "Calibration",
    "CalibrationError",
    "CalibrationSet",
    "Chat",
    "CheckError",
    "Checkpoint",
    "CheckpointError",
    "Classification",
    "Comparison",
    "DataError",
    "DeviceError",
    "ExportError",
    "GenerationError",
    "GenerationOptions",
    "GlmQuantError",
    "HubError",
    "ModelSummary",
    "OnnxBundle",
    "OutputError",
    "Push",
    "QuantizationError",
    "Recipe",
    "RecipeError",
    "ReportComparison",
    "ServeError",
    "TrainingError",
    "TrainingReport",
    "Verification",
    "calibrate",
    "check",
    "classify",
    "compare",
    "compare_recipes",
    "compare_reports",
    "export",
    "generate",
    "inspect",
    "load_recipe",
    "open_chat",
    "packaged_recipes",
    "push",
    "quantize",
    "read_report",
    "register_method",
    "report",
    "run",
    "train_classifier",
    "verify",
]

_HOMES = {
    "AccuracyReport": "glmquant.evaluation.results",
    "Calibration": "glmquant.data.calibration",
    "CalibrationError": "glmquant.errors",
    "CalibrationSet": "glmquant.data.calibration",
    "Chat": "glmquant.runtime.chat",
    "CheckError": "glmquant.errors",
    "Checkpoint": "glmquant.store.checkpoint",
    "CheckpointError": "glmquant.errors",
    "Classification": "glmquant.runtime.classify",
    "Comparison": "glmquant.quantization.diagnosis",
    "DataError": "glmquant.errors",
    "DeviceError": "glmquant.errors",
    "ExportError": "glmquant.errors",
    "GenerationError": "glmquant.errors",
    "GenerationOptions": "glmquant.runtime.sampling",
    "GlmQuantError": "glmquant.errors",
    "HubError": "glmquant.errors",
    "METHODS": "glmquant.methods.registry",
    "ModelSummary": "glmquant.quantization.summary",
    "OnnxBundle": "glmquant.onnx_export.bundle",
    "OutputError": "glmquant.errors",
    "Push": "glmquant.hub.push",
    "QuantizationError": "glmquant.errors",
    "Recipe": "glmquant.recipe.schema",
    "ReportComparison": "glmquant.reports.comparison",
    "RecipeError": "glmquant.errors",
    "ServeError": "glmquant.errors",
    "TrainingError": "glmquant.errors",
    "TrainingReport": "glmquant.train.report",
    "Verification": "glmquant.store.verify",
    "calibrate": "glmquant.api",
    "check": "glmquant.api",
    "classify": "glmquant.api",
    "compare": "glmquant.api",
    "compare_recipes": "glmquant.api",
    "compare_reports": "glmquant.api",
    "report": "glmquant.api",
    "export": "glmquant.api",
    "generate": "glmquant.api",
    "inspect": "glmquant.api",
    "load_recipe": "glmquant.recipe.load",
    "open_chat": "glmquant.api",
    "push": "glmquant.api",
    "packaged_recipes": "glmquant.recipe.packaged",
    "quantize": "glmquant.api",
    "read_report": "glmquant.api",
    "register_method": "glmquant.methods.registry",
    "run": "glmquant.api",
    "train_classifier": "glmquant.api",
    "verify": "glmquant.api",
}
"""Where each public name is at home. It is imported on first use, so that nobody waits for what they do not use."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*(name for name in globals() if name.startswith("__")), *__all__})
