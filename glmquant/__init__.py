"""glmquant: a GLM checkpoint to a small, fast, proven ONNX model."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from glmquant.api import (
        GenerationOptions,
        calibrate,
        check,
        classify,
        export,
        generate,
        inspect,
        load_recipe,
        open_chat,
        packaged_recipes,
        quantize,
        run,
        train_classifier,
    )

__all__ = [
    "GenerationOptions",
    "calibrate",
    "check",
    "classify",
    "export",
    "generate",
    "inspect",
    "load_recipe",
    "open_chat",
    "packaged_recipes",
    "quantize",
    "run",
    "train_classifier",
]


def __getattr__(name: str) -> Any:
    """The public names load on first use, so that ``glmquant --help`` need not wait for torch."""
    if name in __all__:
        from glmquant import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
