"""The command line: the only place that prints or exits. Results go to stdout, progress and notes to stderr.

Exit codes: 0 passed, 1 an accuracy limit was missed, 2 bad input, 3 the check was inconclusive, 130 interrupted.
"""

import gc
import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from glmquant import __version__
from glmquant.cli.options import (
    Against,
    BundleArgument,
    CalibrationOption,
    Ci,
    Data,
    Device,
    Inconclusive,
    Json,
    MaxNewTokens,
    MemoryLimit,
    ModelArgument,
    OptionalRecipe,
    Out,
    ProviderOption,
    Quiet,
    RecipeOption,
    RepetitionPenalty,
    Seed,
    Set,
    TaskOption,
    Temperature,
    Text,
    TopK,
    TopP,
    TrainData,
)
from glmquant.errors import GlmQuantError
from glmquant.progress import Progress

if TYPE_CHECKING:
    from glmquant.evaluation.results import AccuracyReport

EXIT_CODES = {"pass": 0, "fail": 1, "inconclusive": 3}
BAD_INPUT, INTERRUPTED = 2, 130
OBJECTS_BETWEEN_COLLECTIONS = 10_000
"""In a process of our own. At Python 3.11's 700 collecting takes a fifth of torch's import: half a million objects, and
no garbage."""
USAGE_ERROR: Any = typer.BadParameter.__base__  # typer's own copy of click in some releases, click's in others

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Takes a GLM checkpoint to a small, fast, proven ONNX model: calibrate, quantize, export, check.",
)


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """Options of every command; ``main`` reads ``--debug`` itself."""


@app.command()
def demo(
    out: Out,
    recipe: RecipeOption = "demo",
    overrides: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the whole pipeline on the model inside the package: calibrate, quantize, export, check."""
    from glmquant import assets

    _run(recipe, assets.DEMO_MODEL, out, overrides, as_json, quiet)


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="Name of a packaged recipe, or path of a YAML file.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="Directory of a GLM checkpoint.")],
    out: Out,
    train_data: TrainData = None,
    overrides: Set = None,
    against: Against = None,
    inconclusive: Inconclusive = None,
    ci: Ci = False,
    as_json: Json = False,
    memory_limit: MemoryLimit = None,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Calibrate, quantize, export and check in one go; with --train-data, train a classifier before."""
    if train_data is not None:
        overrides = [*(overrides or ()), f"train.data={json.dumps(str(train_data))}"]
    _run(recipe, model, out, overrides, as_json, quiet, ci, against, inconclusive, memory_limit, device)


@app.command()
def inspect(
    model: ModelArgument,
    compare: Annotated[
        Path | None, typer.Option("--compare", help="Another quantization of it: which layers cost that one most.")
    ] = None,
    recipe: OptionalRecipe = None,
    overrides: Set = None,
    predict: Annotated[
        bool, typer.Option(help="With a recipe: measure this machine, and say what time, memory and disk it will take.")
    ] = True,
    memory_limit: MemoryLimit = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Say what a checkpoint is, how big, what a recipe would make of it, and what that would take."""
    from glmquant import api

    if compare is not None:
        from glmquant.quantization.diagnosis import to_text

        comparison = api.compare(model, compare)
        if as_json:
            _print_json(comparison.to_dict())
        else:
            print(to_text(comparison))
        return
    from glmquant.cli.terminal import describe

    chosen = api.load_recipe(recipe, _overrides(overrides)) if recipe else None
    summary = api.inspect(model, chosen, predict=predict, memory_limit=memory_limit, device=device)
    if as_json:
        _print_json(summary.to_dict())
    else:
        print(describe(summary))


@app.command()
def calibrate(
    model: ModelArgument,
    out: Out,
    data: Data = None,
    recipe: RecipeOption = "int4-g128-gptq",
    overrides: Set = None,
    memory_limit: MemoryLimit = None,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Sample calibration text and record the ranges of every linear's inputs."""
    from glmquant import api

    with _progress(quiet) as progress:
        chosen = api.load_recipe(recipe, _overrides(overrides))
        api.calibrate(model, chosen, text=data, out=out, memory_limit=memory_limit, device=device, progress=progress)
    print(out)


@app.command()
def quantize(
    model: ModelArgument,
    out: Out,
    recipe: RecipeOption,
    calibration: CalibrationOption = None,
    overrides: Set = None,
    memory_limit: MemoryLimit = None,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Quantize a checkpoint into a directory in GPTQ format."""
    from glmquant import api

    with _progress(quiet) as progress:
        chosen = api.load_recipe(recipe, _overrides(overrides))
        api.quantize(model, chosen, calibration, out=out, memory_limit=memory_limit, device=device, progress=progress)
    print(out)


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="Directory of a checkpoint: what `quantize` wrote, or a float one.")],
    out: Out,
    recipe: OptionalRecipe = None,
    calibration: CalibrationOption = None,
    overrides: Set = None,
    quiet: Quiet = False,
) -> None:
    """Write a checkpoint as an ONNX bundle with KV-cache inputs.

    What `quantize` has not seen is quantized on the way, by a recipe whose rules need no calibration.
    """
    from glmquant import api

    with _progress(quiet) as progress:
        chosen = api.load_recipe(recipe, _overrides(overrides))
        bundle = api.export(model, chosen, calibration, out=out, progress=progress)
    print(bundle.path)


@app.command()
def check(
    bundle: Annotated[Path, typer.Argument(help="Directory of an ONNX bundle.")],
    baseline: Annotated[Path, typer.Option("--baseline", "-b", help="Directory of the float checkpoint.")],
    text: Text = None,
    task: TaskOption = None,
    report: Annotated[Path | None, typer.Option("--report", help="Directory to write the report to.")] = None,
    recipe: OptionalRecipe = None,
    overrides: Set = None,
    against: Against = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Directory to keep the baseline's answers in, for the next check.")
    ] = None,
    inconclusive: Inconclusive = None,
    ci: Ci = False,
    as_json: Json = False,
    memory_limit: MemoryLimit = None,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Measure an ONNX bundle against the float checkpoint. Exit code 0 passed, 1 missed a limit, 3 inconclusive."""
    from glmquant import api

    chosen = api.load_recipe(recipe, _overrides(overrides))
    with _progress(quiet, ci) as progress:
        result = api.check(
            bundle,
            baseline=baseline,
            recipe=chosen,
            text=text,
            tasks=task,
            against=against,
            cache=cache,
            out=report,
            memory_limit=memory_limit,
            device=device,
            progress=progress,
        )
    _print_report(result, as_json, inconclusive, report if ci else None)


@app.command()
def report(
    reports: Annotated[
        list[Path], typer.Argument(help="report.json of a check, or its directory; the first is drawn.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="HTML file to write.")],
) -> None:
    """Draw a check as one HTML page, with other quantizations of the model beside it: quality against size."""
    from glmquant import api

    api.draw(reports, out)
    print(out)


@app.command()
def generate(
    bundle: BundleArgument,
    prompt: Annotated[str, typer.Argument(help="What to say to the model.")],
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text; no chat template.")] = False,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = 1.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    seed: Seed = None,
    provider: ProviderOption = "cpu",
) -> None:
    """Stream an answer from an ONNX bundle."""
    from glmquant import api

    options = api.GenerationOptions(max_new_tokens, temperature, top_k, top_p, repetition_penalty, seed=seed)
    for piece in api.generate(bundle, prompt, chat=not raw, options=options, provider=provider):
        print(piece, end="", flush=True)
    print()


@app.command()
def chat(
    bundle: BundleArgument,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = 1.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    seed: Seed = None,
    provider: ProviderOption = "cpu",
) -> None:
    """Talk to an ONNX bundle, a line a turn, until the input ends (Ctrl-D)."""
    from glmquant import api
    from glmquant.cli.terminal import turns

    options = api.GenerationOptions(max_new_tokens, temperature, top_k, top_p, repetition_penalty, seed=seed)
    conversation = api.open_chat(bundle, options=options, provider=provider)
    for text in turns():
        for piece in conversation.say(text):
            print(piece, end="", flush=True)
        print()


@app.command()
def train_classifier(
    model: ModelArgument,
    data: Annotated[
        Path, typer.Option("--data", help="JSONL or CSV with text and label, or a directory of LABEL.txt files.")
    ],
    out: Out,
    recipe: OptionalRecipe = None,
    overrides: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a text classifier: its head, or with --set train.mode=lora or full the model too."""
    from glmquant import api

    with _progress(quiet) as progress:
        report = api.train_classifier(
            model, data, api.load_recipe(recipe, _overrides(overrides)), out=out, progress=progress
        )
    print(report.to_json() if as_json else report.to_markdown(), end="")


@app.command()
def classify(
    bundle: Annotated[Path, typer.Argument(help="Directory of a classifier's ONNX bundle.")],
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to classify.")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="A text a line, or JSONL with a field `text`.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Label texts: one line each with label, probability and text."""
    from glmquant import api
    from glmquant.data.sequences import read_texts

    given = [*(texts or ()), *(read_texts(file) if file else ())]
    if not given:
        raise typer.BadParameter("give a text, or --file")
    with _progress(quiet) as progress:
        results = api.classify(bundle, given, progress=progress)
    if as_json:
        _print_json([asdict(result) for result in results])
        return
    for text, result in zip(given, results, strict=True):
        print(f"{result.label}\t{result.probability:.4f}\t{' '.join(text.split())}")
    truncated = sum(result.truncated for result in results)
    if truncated:
        print(f"{truncated} of {len(results)} texts are too long: their ends were not read", file=sys.stderr)


@app.command()
def recipes() -> None:
    """List the packaged recipes."""
    from glmquant import api

    for name in api.packaged_recipes():
        print(f"{name:24} {api.load_recipe(name).description}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``glmquant`` command."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    try:
        code = app(arguments, standalone_mode=False)
    except USAGE_ERROR as error:
        error.show()
        code = BAD_INPUT
    except (typer.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    except GlmQuantError as error:
        if "--debug" in arguments:
            raise
        print(f"glmquant: {error}", file=sys.stderr)
        code = BAD_INPUT
    sys.exit(code if isinstance(code, int) else 0)


def _run(
    recipe: str,
    model: Path,
    out: Path,
    overrides: list[str] | None,
    as_json: bool,
    quiet: bool,
    ci: bool = False,
    against: Path | None = None,
    inconclusive: str | None = None,
    memory_limit: int | None = None,
    device: str = "cpu",
) -> None:
    from glmquant import api

    chosen = api.load_recipe(recipe, _overrides(overrides))
    with _progress(quiet, ci) as progress:
        report = api.run(
            model, chosen, against=against, out=out, memory_limit=memory_limit, device=device, progress=progress
        )
    if not quiet:
        print(f"the bundle is {out / 'onnx'}", file=sys.stderr)
    _print_report(report, as_json, inconclusive, out / "report" if ci else None)


def _progress(quiet: bool, ci: bool = False) -> AbstractContextManager[Progress]:
    from glmquant.cli.terminal import progress_on_stderr

    return progress_on_stderr(quiet, lines=ci)


def _overrides(pairs: list[str] | None) -> dict[str, Any]:
    from glmquant.recipe.load import parse_override

    return dict(parse_override(pair) for pair in pairs or ())


def _print_json(values: Any) -> None:
    print(json.dumps(values, ensure_ascii=False, indent=1))


def _print_report(
    report: "AccuracyReport", as_json: bool, inconclusive: str | None = None, written: Path | None = None
) -> NoReturn:
    """Prints the report, in short where it was ``written`` for a pipeline, and exits as its verdict says."""
    from glmquant.cli.terminal import print_markdown
    from glmquant.report.markdown import in_short, to_markdown

    if as_json:
        print(report.to_json(), end="")
    elif written is not None:
        print(in_short(report, written))
    else:
        print_markdown(to_markdown(report))
    raise typer.Exit(EXIT_CODES[inconclusive if inconclusive and report.verdict == "inconclusive" else report.verdict])
