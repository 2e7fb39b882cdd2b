"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def bytes_from(text: str) -> int:
    """``4GB``, ``512MB`` or ``3.5GiB`` in bytes.

    Raises:
        typer.BadParameter: no such size.
    """
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return TypeAdapter(ByteSize).validate_python(text)
    except ValidationError:
        raise typer.BadParameter(f"{text!r} is no size; give one such as 4GB, 512MB or 3.5GiB") from None


def recipe_names(incomplete: str) -> list[str]:
    """Packaged recipes whose names begin so, for the shell's completion."""
    from glmquant.recipe.packaged import packaged_recipes

    return [name for name in packaged_recipes() if name.startswith(incomplete)]


ModelArgument = Annotated[
    str,
    typer.Argument(help="Read a GLM checkpoint from this directory, or from the hub: ORG/NAME or ORG/NAME@REVISION."),
]
Baseline = Annotated[
    str,
    typer.Option(
        "--baseline",
        "-b",
        help="Compare with the float checkpoint in this directory, ORG/NAME of the hub, or a file of --save-baseline.",
    ),
]
BundleArgument = Annotated[Path, typer.Argument(help="Run the ONNX bundle in this directory.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Write to this directory; it must not exist, or be empty.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key of the recipe, e.g. --set calibration.seq_len=512. May be repeated."),
]
Plugin = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        help="Run this Python file of your own first: it registers quantization methods (docs/methods.md). It is code, "
        "and may do all that you may. May be repeated.",
    ),
]
AdapterOption = Annotated[
    Path | None,
    typer.Option("--adapter", help="Merge the LoRA adapter in this directory into the float model, as PEFT would."),
]
RecipeOption = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        autocompletion=recipe_names,
        help="Use this recipe: the name of a packaged one, or a YAML file.",
    ),
]
OptionalRecipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "-r",
        autocompletion=recipe_names,
        help="Use the settings of this recipe: the name of a packaged one, or a YAML file.",
    ),
]
MemoryLimit = Annotated[
    int | None,
    typer.Option(
        "--memory-limit",
        parser=bytes_from,
        metavar="SIZE",
        help="Limit the memory of the process, e.g. to 4GB; activations beyond it spill to disk.",
    ),
]
Device = Annotated[str, typer.Option("--device", metavar="DEVICE", help="Compute on this device: cpu, cuda or cuda:N.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print the report's tables too.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Text = Annotated[
    list[Path] | None, typer.Option("--text", help="Measure perplexity on this file of text, records or conversations.")
]
Data = Annotated[
    list[Path] | None, typer.Option("--data", help="Calibrate on this file of text, records or conversations.")
]
TrainData = Annotated[
    Path | None,
    typer.Option(
        "--train-data",
        help="Train a classifier first, on records with text and label, or a directory of LABEL.txt or LABEL/.",
    ),
]
Inconclusive = Annotated[
    Literal["pass", "fail"] | None,
    typer.Option("--inconclusive", help="Treat an inconclusive result as pass or fail (default: exit with 3)."),
]
Force = Annotated[bool, typer.Option("--force", help="Start anew, and replace what --out holds.")]
Against = Annotated[
    Path | None,
    typer.Option("--against", help="Compare with the report of an earlier model, and fail on a regression too."),
]
Cache = Annotated[
    Path | None,
    typer.Option("--cache", help="Keep the baseline's logits in this directory, and reuse them in later checks."),
]
Ci = Annotated[bool, typer.Option("--ci", help="Log plain lines in place of progress bars.")]
CalibrationOption = Annotated[
    Path | None, typer.Option("--calibration", "-c", help="Use the calibration that calibrate wrote here.")
]
TaskOption = Annotated[
    list[Path] | None, typer.Option("--task", help="Measure accuracy on this file of labeled texts.")
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Stop after this many tokens.")]
Temperature = Annotated[float, typer.Option(min=0, help="Divide logits by this before sampling; 0 is greedy.")]
TopK = Annotated[int | None, typer.Option(min=1, help="Sample from the k most likely tokens (default: off).")]
System = Annotated[
    str | None,
    typer.Option("--system", metavar="TEXT", help="Tell the model this before the first turn, as a system message."),
]
Thinking = Annotated[
    bool | None,
    typer.Option(
        "--thinking/--no-thinking",
        help="Use thinking, or not (default: as the chat template has it).",
    ),
]
TopP = Annotated[
    float, typer.Option(min=0, max=1, help="Sample from the most likely tokens of this total probability.")
]
RepetitionPenalty = Annotated[float, typer.Option(help="Penalize tokens that occurred before; 1 is off.")]
Seed = Annotated[int | None, typer.Option(help="Seed the sampling (default: differs each time).")]
ProviderOption = Annotated[
    Literal["cpu", "cuda"], typer.Option(help="Run the model on this execution provider of ONNX Runtime.")
]
