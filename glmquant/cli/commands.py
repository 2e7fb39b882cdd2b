"""The commands: options into values, one public verb, and its result on stdout; all else on stderr.

A command imports what it needs when it runs, so that ``--help`` waits for nothing.
"""

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer

import glmquant as gq
from glmquant.cli import anywhere, old
from glmquant.cli.endings import BAD_INPUT, tell_all
from glmquant.cli.options import (
    AdapterOption,
    Against,
    Baseline,
    BundleArgument,
    Cache,
    CalibrationOption,
    Ci,
    Data,
    Device,
    Force,
    Inconclusive,
    Json,
    MaxNewTokens,
    MemoryLimit,
    ModelArgument,
    OptionalRecipe,
    Out,
    Plugin,
    ProviderOption,
    RecipeOption,
    RepetitionPenalty,
    Seed,
    Set,
    System,
    TaskOption,
    Temperature,
    Text,
    Thinking,
    TopK,
    TopP,
    TrainData,
    Verbose,
    recipe_names,
)
from glmquant.cli.printing import show, show_answer
from glmquant.cli.streams import as_typed
from glmquant.cli.swapped import require_bundle_before_baseline, require_recipe_after_model
from glmquant.core.ranks import current
from glmquant.data.streams import STDIN
from glmquant.inert import inert_line
from glmquant.progress import Progress


def demo(
    out: Out,
    recipe: RecipeOption = "demo",
    overrides: Set = None,
    plugin: Plugin = None,
    as_json: Json = False,
    verbose: Verbose = False,
    force: Force = False,
) -> None:
    """Run the whole pipeline on the packaged demo model: calibrate, quantize, export, check."""
    from glmquant import assets

    with _progress() as progress:
        chosen = _recipe(recipe, overrides, plugin)
        result = gq.run(assets.DEMO_MODEL, chosen, out=out, force=force, progress=progress)
    _finish(result, out / "onnx", out / "report", as_json=as_json, verbose=verbose)


def run(
    model: ModelArgument,
    out: Out,
    recipe: OptionalRecipe = None,
    old_model: old.Model = None,
    adapter: AdapterOption = None,
    train_data: TrainData = None,
    overrides: Set = None,
    plugin: Plugin = None,
    against: Against = None,
    cache: Cache = None,
    inconclusive: Inconclusive = None,
    ci: Ci = False,
    as_json: Json = False,
    verbose: Verbose = False,
    memory_limit: MemoryLimit = None,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Calibrate, quantize, export and check in one go; with --train-data, train a classifier first."""
    if train_data is not None:
        overrides = [*(overrides or ()), f"train.data={json.dumps(str(train_data))}"]
    with _progress(lines=ci) as progress:
        model, recipe = old.model_and_recipe(model, recipe, old_model)
        require_recipe_after_model(model, recipe)
        chosen = _recipe(recipe, overrides, plugin)
        result = gq.run(
            model,
            chosen,
            adapter=adapter,
            against=against,
            cache=cache,
            out=out,
            memory_limit=memory_limit,
            device=device,
            force=force,
            progress=progress,
        )
    _finish(result, out / "onnx", out / "report", as_json=as_json, verbose=verbose, inconclusive=inconclusive)


def inspect(
    model: ModelArgument,
    compare: Annotated[
        str | None,
        typer.Option("--compare", help="Compare with another quantization of the model: which layers cost it most."),
    ] = None,
    adapter: AdapterOption = None,
    recipe: OptionalRecipe = None,
    overrides: Set = None,
    plugin: Plugin = None,
    predict: Annotated[
        bool, typer.Option(help="Estimate the recipe's time, memory and disk by measuring this machine.")
    ] = True,
    ranks: Annotated[
        int, typer.Option("--ranks", min=1, help="Estimate for so many processes that share the work (torchrun).")
    ] = 1,
    memory_limit: MemoryLimit = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Show a checkpoint and what is wrong with it; estimate a recipe's size, time, memory and disk."""
    from glmquant.cli.rendering import comparison_text, summary_text

    if compare is not None:
        given = {
            "--adapter": adapter,
            "--recipe": recipe,
            "--set": overrides,
            "--plugin": plugin,
            "--memory-limit": memory_limit,
        }
        if beside := [name for name, value in given.items() if value]:
            raise typer.BadParameter(f"--compare reads what was quantized; it takes no {' and no '.join(beside)}")
        with _progress(took=False) as progress:
            comparison = gq.compare(model, compare, progress=progress)
        show(_json(comparison.to_dict()) if as_json else comparison_text(comparison))
        return
    chosen = _recipe(recipe, overrides, plugin) if recipe or overrides or plugin else None
    with _progress(took=False) as progress:
        summary = gq.inspect(
            model,
            chosen,
            adapter=adapter,
            predict=predict,
            ranks=ranks,
            memory_limit=memory_limit,
            device=device,
            progress=progress,
        )
    show(_json(summary.to_dict()) if as_json else summary_text(summary))
    if summary.problems:
        tell_all(problem.as_error() for problem in summary.problems)
        raise typer.Exit(BAD_INPUT)


def calibrate(
    model: ModelArgument,
    out: Out,
    data: Data = None,
    adapter: AdapterOption = None,
    recipe: RecipeOption = "int4-g128-gptq",
    overrides: Set = None,
    plugin: Plugin = None,
    memory_limit: MemoryLimit = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Sample calibration text, for quantize to fit to and export to take KV-cache ranges from."""
    with _progress() as progress:
        chosen = _recipe(recipe, overrides, plugin)
        gq.calibrate(
            model,
            chosen,
            data=data,
            adapter=adapter,
            out=out,
            memory_limit=memory_limit,
            device=device,
            progress=progress,
        )
    _show_written(out, as_json)


def quantize(
    model: ModelArgument,
    out: Out,
    recipe: RecipeOption,
    calibration: CalibrationOption = None,
    adapter: AdapterOption = None,
    overrides: Set = None,
    plugin: Plugin = None,
    memory_limit: MemoryLimit = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Quantize a checkpoint into a directory in GPTQ format."""
    with _progress() as progress:
        chosen = _recipe(recipe, overrides, plugin)
        gq.quantize(
            model,
            chosen,
            calibration,
            adapter=adapter,
            out=out,
            memory_limit=memory_limit,
            device=device,
            progress=progress,
        )
    _show_written(out, as_json)


def export(
    model: Annotated[
        str,
        typer.Argument(help="Read a checkpoint: a directory that quantize wrote, or a float one, here or on the hub."),
    ],
    out: Out,
    recipe: OptionalRecipe = None,
    calibration: CalibrationOption = None,
    adapter: AdapterOption = None,
    overrides: Set = None,
    plugin: Plugin = None,
    as_json: Json = False,
) -> None:
    """Export a checkpoint as an ONNX bundle with KV-cache inputs.

    A float checkpoint is quantized during export by the recipe's rules (data-free methods only).
    """
    with _progress() as progress:
        chosen = _recipe(recipe, overrides, plugin)
        bundle = gq.export(model, chosen, calibration, adapter=adapter, out=out, progress=progress)
    _show_written(bundle.path, as_json)


def check(
    bundle: BundleArgument,
    baseline: Baseline,
    adapter: AdapterOption = None,
    text: Text = None,
    task: TaskOption = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the report to this directory.")] = None,
    old_report: old.Report = None,
    recipe: OptionalRecipe = None,
    overrides: Set = None,
    plugin: Plugin = None,
    against: Against = None,
    cache: Cache = None,
    save_baseline: Annotated[
        Path | None,
        typer.Option(
            "--save-baseline", help="Write what the baseline says to this file, for --baseline where it is not at hand."
        ),
    ] = None,
    inconclusive: Inconclusive = None,
    ci: Ci = False,
    as_json: Json = False,
    verbose: Verbose = False,
    memory_limit: MemoryLimit = None,
    device: Device = "cpu",
) -> None:
    """Check an ONNX bundle against the float checkpoint; exit with 0 if it passes, 1 if not, 3 if the data
    decide nothing, 4 if no limit is judged: give one, or a recipe that has some."""
    with _progress(lines=ci) as progress:
        out = old.report_directory(out, old_report)
        require_bundle_before_baseline(bundle, baseline)
        chosen = _recipe(recipe, overrides, plugin)
        result = gq.check(
            bundle,
            baseline=baseline,
            adapter=adapter,
            recipe=chosen,
            text=text,
            tasks=task,
            against=against,
            cache=cache,
            save_baseline=save_baseline,
            out=out,
            memory_limit=memory_limit,
            device=device,
            progress=progress,
        )
    _finish(result, bundle, out, as_json=as_json, verbose=verbose, inconclusive=inconclusive)


def report(
    reports: Annotated[
        list[Path],
        typer.Argument(help="Read the report.json of a check, or its directory; the first is the page's subject."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Write the page to this HTML file.")],
    as_json: Json = False,
) -> None:
    """Render a check as an HTML page, with other quantizations of the model beside it: quality against size."""
    gq.report(reports, out)
    _show_written(out, as_json)


def compare(
    reports: Annotated[
        list[Path],
        typer.Argument(help="Compare these: the report.json of a check each, or its directory, with the first one."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the table, and the first check, to this HTML file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare checks of several quantizations on the same data: a table of paired differences from the first."""
    comparison = gq.compare_reports(reports, out)
    show(_json(comparison.to_dict()) if as_json else comparison)
    if out is not None and not as_json:
        show(f"page  {out}")


def generate(
    bundle: BundleArgument,
    prompt: Annotated[str, typer.Argument(help="Answer this prompt; `-` reads it from stdin.")],
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt as text, without the chat template.")] = False,
    system: System = None,
    thinking: Thinking = None,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = 1.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    seed: Seed = None,
    provider: ProviderOption = "cpu",
    as_json: Json = False,
) -> None:
    """Generate an answer with an ONNX bundle, and stream it."""
    options = gq.GenerationOptions(max_new_tokens, temperature, top_k, top_p, repetition_penalty, seed=seed)
    typed = as_typed(sys.stdin.read(), sys.stdin.encoding) if prompt == STDIN else as_typed(prompt)
    told = None if system is None else as_typed(system)
    show_answer(
        gq.generate(bundle, typed, chat=not raw, system=told, thinking=thinking, options=options, provider=provider),
        as_json,
    )


def chat(
    bundle: BundleArgument,
    system: System = None,
    thinking: Thinking = None,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = 1.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    seed: Seed = None,
    provider: ProviderOption = "cpu",
    as_json: Json = False,
) -> None:
    """Chat with an ONNX bundle, a line a turn, until the input ends (Ctrl-D). In a terminal, lines can be edited and
    recalled, Ctrl-C stops an answer, and /help lists what else there is."""
    from glmquant.cli.talk import converse, is_by_hand, of_lines, say_what_is_loaded

    options = gq.GenerationOptions(max_new_tokens, temperature, top_k, top_p, repetition_penalty, seed=seed)
    told, by_hand, is_quiet = None if system is None else as_typed(system), is_by_hand(), anywhere.is_quiet()
    if by_hand and not is_quiet:
        show(f"loading {bundle}", to=sys.stderr)
    conversation = gq.open_chat(bundle, system=told, thinking=thinking, options=options, provider=provider)
    if not by_hand:
        of_lines(conversation, as_json=as_json, quiet=is_quiet)
        return
    if not is_quiet:
        say_what_is_loaded(bundle, conversation)
    converse(conversation, as_json=as_json, quiet=is_quiet)


def serve(
    bundle: BundleArgument,
    host: Annotated[
        str, typer.Option(help="Listen at this address; 0.0.0.0 or :: lets other machines in, without any password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Listen at this port; 0 takes any that is free.")] = 8000,
    queue: Annotated[
        int, typer.Option(min=0, help="Let so many requests wait while one is answered, and refuse more with 503.")
    ] = 16,
    thinking: Thinking = None,
    max_new_tokens: MaxNewTokens = 1024,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = 1.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    seed: Seed = None,
    provider: ProviderOption = "cpu",
    as_json: Json = False,
) -> None:
    """Serve an ONNX bundle in the form of OpenAI's chat completions, with a page to chat on, until Ctrl-C. Options of
    the answer hold where a request leaves them open."""
    from glmquant.cli.serving import say_where
    from glmquant.cli.terminal import notes_on_stderr
    from glmquant.core.hub_cache import snapshot
    from glmquant.serve.engine import Engine
    from glmquant.serve.server import Listener
    from glmquant.serve.server import serve as serve_until_signal

    options = gq.GenerationOptions(max_new_tokens, temperature, top_k, top_p, repetition_penalty, seed=seed)
    with notes_on_stderr(anywhere.is_quiet()), Listener(host, port) as listener:
        engine = Engine.open(snapshot(bundle), options, thinking, provider)
        say_where(snapshot(bundle), engine, listener, as_json=as_json)
        serve_until_signal(engine, listener, queue)


def train_classifier(
    model: ModelArgument,
    data: Annotated[
        Path,
        typer.Option(
            "--data", help="Train on this: records with text and label, or a directory of LABEL.txt or LABEL/"
        ),
    ],
    out: Out,
    adapter: AdapterOption = None,
    recipe: OptionalRecipe = None,
    overrides: Set = None,
    plugin: Plugin = None,
    as_json: Json = False,
) -> None:
    """Train a text classifier: its head, or with --set train.mode=lora or full the model too."""
    with _progress() as progress:
        chosen = _recipe(recipe, overrides, plugin)
        trained = gq.train_classifier(model, data, chosen, adapter=adapter, out=out, progress=progress)
    show(trained.to_json() if as_json else trained.to_markdown(), end="")


def classify(
    bundle: BundleArgument,
    texts: Annotated[list[str] | None, typer.Argument(help="Classify these texts.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Classify the texts of a file: one a line, or one a record.")
    ] = None,
    text_field: Annotated[
        str | None, typer.Option("--text-field", help="Read this field of each record (default: the usual ones).")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option("--encoding", help="Read the file in this encoding (default: UTF-8).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Classify texts with a classifier's ONNX bundle: a line each with label, probability and text."""
    from glmquant.data.reading import Reading
    from glmquant.data.sequences import read_texts

    spelled = {"encoding": "--encoding", "text_field": "--text-field"}
    reading = Reading(encoding=encoding, text_field=text_field, options=spelled)
    given = [*map(as_typed, texts or ()), *(read_texts(file, reading) if file else ())]
    if not given:
        raise typer.BadParameter("give a text, or --file")
    with _progress() as progress:
        results = gq.classify(bundle, given, progress=progress)
    if as_json:
        show(_json([asdict(result) for result in results]))
        return
    for text, result in zip(given, results, strict=True):
        show(f"{inert_line(result.label)}\t{result.probability:.4f}\t{' '.join(text.split())}")
    truncated = sum(result.truncated for result in results)
    if truncated:
        show(f"truncated {truncated} of {len(results)} texts to the classifier's max_length", to=sys.stderr)


def verify(
    directory: Annotated[
        Path, typer.Argument(help="Read what quantize, export or run wrote here; or the cache's models--ORG--NAME.")
    ],
    as_json: Json = False,
) -> None:
    """Compare every file of a quantized checkpoint, a bundle or a run with the hash it was written with; exit with 0
    if all are the same, 2 if one is not, 4 if there are no hashes for some."""
    with _progress() as progress:
        found = gq.verify(directory, progress=progress)
    without = ", ".join(map(inert_line, found.without_hashes))
    if as_json:
        show(_json(found.to_dict()))
    elif found.files:
        show(f"{found.files} files of {found.size:,} bytes are what was written")
    if not found.is_complete:
        show(f"not verified: {without} has no hashes; an earlier release wrote it", to=sys.stderr)
        from glmquant.cli.verdict import EXIT_CODES

        raise typer.Exit(EXIT_CODES["not judged"])


def push(
    bundle: Annotated[Path, typer.Argument(help="Publish the ONNX bundle in this directory.")],
    repo: Annotated[str, typer.Argument(help="Publish to this repository of the Hugging Face hub: ORG/NAME.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Upload, rather than only show what would be.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Make the repository a private one.")] = False,
    as_json: Json = False,
) -> None:
    """Publish an ONNX bundle on the Hugging Face hub; without --yes, show what would be uploaded."""
    from glmquant.cli.rendering import push_text

    with _progress(took=False) as progress:
        pushed = gq.push(bundle, repo, upload=yes, private=private, progress=progress)
    show(_json(pushed.to_dict()) if as_json else push_text(pushed))


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(autocompletion=recipe_names, help="Show this one with all its keys, as YAML."),
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of recipes, for editors.")] = False,
    as_json: Json = False,
) -> None:
    """List the packaged recipes with size, quality and speed as measured; show one in full."""
    from glmquant.cli import recipe_list
    from glmquant.recipe.packaged import SCHEMA

    if schema:
        show(SCHEMA.read_text(encoding="utf-8"), end="")
    elif name is not None:
        show(recipe_list.in_full(name, as_json=as_json), end="")
    else:
        show(_json(recipe_list.as_values()) if as_json else recipe_list.as_text())


COMMANDS: Final[tuple[Callable[..., None], ...]] = (
    demo,
    run,
    inspect,
    calibrate,
    quantize,
    export,
    check,
    report,
    compare,
    generate,
    chat,
    serve,
    train_classifier,
    classify,
    verify,
    push,
    recipes,
)
"""In the order of the help."""


def _progress(*, lines: bool = False, took: bool = True) -> AbstractContextManager[Progress]:
    from glmquant.cli.terminal import progress_on_stderr

    return progress_on_stderr(anywhere.is_quiet() or not current().is_first, lines=lines, took=took)


def _show_written(out: Path, as_json: bool) -> None:
    show(_json({"out": str(out)}) if as_json else out)


def _recipe(name: str | None, pairs: list[str] | None, plugins: list[Path] | None) -> "gq.Recipe":
    """The recipe with its overrides, once the user's own code has registered the methods that it may name."""
    from glmquant.recipe.load import parse_override

    if plugins:
        from glmquant.methods.plugin import load_plugin

        for path in plugins:
            load_plugin(path)
    return gq.load_recipe(name, dict(parse_override(pair) for pair in pairs or ()))


def _json(values: Any) -> str:
    return json.dumps(values, ensure_ascii=False, indent=1)


def _finish(
    result: "gq.AccuracyReport",
    bundle: Path,
    written: Path | None,
    *,
    as_json: bool,
    verbose: bool,
    inconclusive: str | None = None,
) -> None:
    from glmquant.cli.annotations import annotate_result
    from glmquant.cli.verdict import exit_code, show_result

    show_result(result, bundle, written, as_json=as_json, verbose=verbose)
    code = exit_code(result, inconclusive)
    annotate_result(result, code)
    raise typer.Exit(code)
