"""Arguments and options that several commands share."""

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def bytes_from(text: str) -> int:
    """``4GB`` in bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]i?B)", text.strip(), re.IGNORECASE)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no size; give one such as 4GB, 512MB or 3.5GiB")
    return int(float(match[1]) * UNITS[match[2].upper()])


ModelArgument = Annotated[Path, typer.Argument(help="Directory of a GLM checkpoint.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Directory to write; must not exist, or be empty.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key of the recipe, e.g. --set calibration.seq_len=512. May be repeated."),
]
RecipeOption = Annotated[str, typer.Option("--recipe", "-r", help="Name of a packaged recipe, or path of a YAML file.")]
OptionalRecipe = Annotated[
    str | None, typer.Option("--recipe", "-r", help="Name or path of the recipe whose settings to use.")
]
MemoryLimit = Annotated[
    int | None,
    typer.Option(
        "--memory-limit",
        parser=bytes_from,
        metavar="SIZE",
        help="Keep activations on the disk where the process would hold more, e.g. 4GB.",
    ),
]
Device = Annotated[
    str, typer.Option("--device", metavar="DEVICE", help="What computes: cpu, cuda, or one GPU of several, cuda:1.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Text = Annotated[list[Path] | None, typer.Option("--text", help="UTF-8 text or JSONL to measure perplexity on.")]
Data = Annotated[list[Path] | None, typer.Option("--data", help="UTF-8 text or JSONL to calibrate on.")]
TrainData = Annotated[
    Path | None,
    typer.Option(
        "--train-data",
        help="Train a classifier on it first: JSONL or CSV with text and label, or a directory of LABEL.txt files.",
    ),
]
Inconclusive = Annotated[
    Literal["pass", "fail"] | None,
    typer.Option("--inconclusive", help="Exit with 0 or 1 where the data decide nothing, instead of 3."),
]
Against = Annotated[
    Path | None, typer.Option("--against", help="Report of an earlier model: also fail on what is lost since then.")
]
Ci = Annotated[bool, typer.Option("--ci", help="For a pipeline's log: lines in place of bars, a verdict in short.")]
CalibrationOption = Annotated[Path | None, typer.Option("--calibration", "-c", help="What `calibrate` wrote.")]
BundleArgument = Annotated[Path, typer.Argument(help="Directory of an ONNX bundle.")]
MaxNewTokens = Annotated[int, typer.Option(min=1)]
Temperature = Annotated[float, typer.Option(min=0, help="0 is greedy.")]
TopK = Annotated[int | None, typer.Option(min=1, help="Sample among so many tokens; default all.")]
TopP = Annotated[float, typer.Option(min=0, max=1)]
RepetitionPenalty = Annotated[float, typer.Option(help="Above 1, tokens already there grow less likely.")]
Seed = Annotated[int | None, typer.Option(help="Of the sampling; default differs each time.")]
ProviderOption = Annotated[Literal["cpu", "cuda"], typer.Option(help="What runs the model.")]
TaskOption = Annotated[list[Path] | None, typer.Option("--task", help="Labeled JSONL or CSV to classify.")]
