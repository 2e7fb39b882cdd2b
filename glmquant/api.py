"""The verbs: from a checkpoint to calibration, quantized checkpoint, ONNX bundle, report, text.

A model is given by its directory, by the id of its repository (``THUDM/chatglm2-6b``, or with ``@REVISION``), or opened
already; a recipe by its name or path, or loaded: what a verb gives is what the next one takes. ``progress`` takes a
callback (:class:`glmquant.progress.Progress`), or True to show progress and notes: in a notebook in the cell's output,
else as lines on stderr. A verb imports what it alone needs when it is called: ONNX Runtime, onnx and scipy take longer
to import than a small model to quantize.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from glmquant.errors import CheckError, CheckpointError, ExportError, GenerationError, Parameter
from glmquant.live import shown
from glmquant.progress import Progress
from glmquant.runtime.sampling import GenerationOptions

if TYPE_CHECKING:
    from glmquant.data.calibration import Calibration, CalibrationSet
    from glmquant.evaluation.results import AccuracyReport
    from glmquant.evaluation.stored_baseline import StoredBaseline
    from glmquant.hub.push import Push
    from glmquant.onnx_export.bundle import OnnxBundle
    from glmquant.quantization.diagnosis import Comparison
    from glmquant.quantization.summary import ModelSummary
    from glmquant.recipe.schema import Recipe
    from glmquant.reports.comparison import ReportComparison
    from glmquant.runtime.chat import Chat
    from glmquant.runtime.classify import Classification
    from glmquant.runtime.session import Provider
    from glmquant.store.checkpoint import Checkpoint
    from glmquant.store.verify import Verification
    from glmquant.train.report import TrainingReport

__all__ = [
    "GenerationOptions",
    "calibrate",
    "check",
    "classify",
    "compare",
    "compare_recipes",
    "compare_reports",
    "export",
    "generate",
    "inspect",
    "open_chat",
    "push",
    "quantize",
    "read_report",
    "report",
    "run",
    "train_classifier",
    "verify",
]

Files = Sequence[str | Path] | str | Path | None
Directory = str | Path | None


def inspect(
    model: "Checkpoint | str | Path",
    recipe: "Recipe | str | Path | None" = None,
    *,
    adapter: Directory = None,
    predict: bool = False,
    ranks: int = 1,
    memory_limit: int | None = None,
    device: str = "cpu",
    progress: Progress | bool = False,
) -> "ModelSummary":
    """Describe a checkpoint, and what ``recipe`` would make of it; no weight is read.

    Args:
        adapter: directory of a LoRA adapter, as PEFT writes it, to merge into the float checkpoint as it is read.
        predict: also measure this machine, to estimate the recipe's time, memory and disk.
        ranks: how many are to share the work (docs/scale-out.md), for the estimate.
        memory_limit, device: as in :func:`calibrate`, for the estimate.
        progress: a callback, which is told how far the download of a repository is; True shows it.
    """
    from glmquant.quantization.summary import stored_bytes, summarize
    from glmquant.recipe.plan import make_plan

    loaded = None if recipe is None else _loaded(recipe)
    with shown(progress) as told:
        checkpoint = _opened(model, loaded, adapter, told)
        plan = None if loaded is None else make_plan(loaded, checkpoint.config)
        summary = summarize(checkpoint, plan)
        if plan is None or not predict:
            return summary
        from glmquant.quantization.forecast import forecast
        from glmquant.streaming.resources import Resources

        resources = Resources.named(device, memory_limit)
        with resources.in_use():
            foretold = forecast(checkpoint, plan, stored_bytes(summary, plan), resources, ranks)
        return replace(summary, forecast=foretold)


def compare(
    first: "Checkpoint | str | Path", second: "Checkpoint | str | Path", *, progress: Progress | bool = False
) -> "Comparison":
    """Compare two quantizations of one model, group by group, from their manifests: what costs the second one most."""
    from glmquant.quantization.diagnosis import compare_checkpoints

    with shown(progress) as told:
        return compare_checkpoints(_opened(first, None, None, told), _opened(second, None, None, told))


def calibrate(
    model: "Checkpoint | str | Path",
    recipe: "Recipe | str | Path",
    *,
    data: Files = None,
    adapter: Directory = None,
    out: str | Path,
    memory_limit: int | None = None,
    device: str = "cpu",
    progress: Progress | bool = False,
) -> "Calibration":
    """Sample calibration tokens as the recipe says.

    Where ``export.kv_cache`` is quantized, the float model also runs over them for the ranges of keys and values.

    Args:
        data: files to use instead of the recipe's ``calibration.data``.
        adapter: as in :func:`inspect`.
        out: directory to write.
        memory_limit: bytes the process may hold; activations that would exceed it lie on the disk. Default: three
            quarters of the machine's memory. It changes no result.
        device: what computes, ``cpu``, ``cuda`` or ``cuda:N``; activations stay in the processor's memory.
    """
    from glmquant.quantization.calibrate import calibrate as calibrated
    from glmquant.quantization.calibrate import sample_texts
    from glmquant.recipe.plan import make_plan
    from glmquant.store.calibration import write_calibration
    from glmquant.store.output import existing, output_of_first
    from glmquant.streaming.resources import Resources

    resources, recipe = Resources.named(device, memory_limit), _loaded(recipe)
    with shown(progress) as told:
        checkpoint = _opened(model, recipe, adapter, told)
        plan = make_plan(recipe, checkpoint.config)
        samples = sample_texts(checkpoint, recipe.calibration, _names(data))
        with output_of_first(Path(out), resources.ranks) as partial:
            calibration = calibrated(checkpoint, plan, samples, resources, existing(Path(out).parent), told)
            if partial is not None:
                write_calibration(calibration, partial)
        return calibration


def quantize(
    model: "Checkpoint | str | Path",
    recipe: "Recipe | str | Path",
    calibration: "Calibration | CalibrationSet | str | Path | None" = None,
    *,
    adapter: Directory = None,
    out: str | Path,
    memory_limit: int | None = None,
    device: str = "cpu",
    progress: Progress | bool = False,
) -> "Checkpoint":
    """Quantize a float checkpoint by the recipe's rules into a directory in GPTQ format.

    Args:
        calibration: what :func:`calibrate` gave, or where it wrote it; methods that need no data need none.
        adapter: as in :func:`inspect`.
        memory_limit, device: as in :func:`calibrate`.
    """
    from glmquant.data.calibration import Calibration
    from glmquant.quantization.directory import quantize_directory
    from glmquant.recipe.plan import make_plan
    from glmquant.store.calibration import read_calibration
    from glmquant.streaming.resources import Resources

    resources, recipe = Resources.named(device, memory_limit), _loaded(recipe)
    with shown(progress) as told:
        checkpoint = _opened(model, recipe, adapter, told)
        plan = make_plan(recipe, checkpoint.config)
        if isinstance(calibration, str | Path):
            calibration = read_calibration(Path(calibration))
        samples = calibration.samples if isinstance(calibration, Calibration) else calibration
        return quantize_directory(checkpoint, plan, samples, Path(out), resources, told)


def export(
    model: "Checkpoint | str | Path",
    recipe: "Recipe | str | Path | None" = None,
    calibration: "Calibration | str | Path | None" = None,
    *,
    adapter: Directory = None,
    out: str | Path,
    progress: Progress | bool = False,
) -> "OnnxBundle":
    """Write a checkpoint, float or quantized, as an ONNX bundle by the recipe's ``export`` section.

    What is not in GPTQ format is quantized on the way by the recipe's ``rules``, which may need no calibration samples
    then: no GPTQ directory lies in between, and the bundle is the same. So are rows that the publisher quantized. What
    is in GPTQ format stays as it is: rules that say otherwise are told in the log, and not applied.

    Args:
        calibration: what :func:`calibrate` gave, or where it wrote it; a quantized KV cache needs its ranges.
        adapter: as in :func:`inspect`.
    """
    from glmquant.pipeline.export import export_directory
    from glmquant.recipe.plan import make_plan
    from glmquant.store.calibration import read_calibration

    recipe = _loaded(recipe)
    with shown(progress) as told:
        checkpoint = _opened(model, recipe, adapter, told)
        if isinstance(calibration, str | Path):
            calibration = read_calibration(Path(calibration))
        ranges = None if calibration is None else calibration.key_values
        return export_directory(checkpoint, make_plan(recipe, checkpoint.config), ranges, Path(out), told)


def check(
    bundle: "OnnxBundle | str | Path",
    *,
    baseline: "Checkpoint | str | Path",
    adapter: Directory = None,
    recipe: "Recipe | str | Path | None" = None,
    text: Files = None,
    tasks: Sequence[str | Path] | None = None,
    against: "AccuracyReport | str | Path | None" = None,
    cache: str | Path | None = None,
    save_baseline: str | Path | None = None,
    out: str | Path | None = None,
    memory_limit: int | None = None,
    device: str = "cpu",
    progress: Progress | bool = False,
) -> "AccuracyReport":
    """Measure a bundle, as it ships, against the float checkpoint by the recipe's ``check`` section.

    Args:
        baseline: the float checkpoint, or a file that an earlier check on the same data wrote to ``save_baseline``.
        adapter: of the baseline; as in :func:`inspect`.
        text: files to use instead of ``check.text``.
        tasks: labeled files to use instead of ``check.tasks``.
        against: the report of an earlier check on the same data; what is lost since then counts by ``check.against``.
        cache: directory where what the float checkpoint says is kept for the next check on the same data.
        save_baseline: file to write what the float checkpoint says to, for checks where it is not at hand.
        out: directory to write ``report.json``, ``report.md``, ``report.html`` and ``junit.xml`` to, the model card
            that goes with the bundle (``README.md``), and ``run.json``: when, where and how fast; None writes nothing.
        memory_limit, device: as in :func:`calibrate`, for the float checkpoint's pass; the bundle runs in ONNX Runtime
            on the processor, as it ships.
    """
    from glmquant.evaluation.bundle import with_files
    from glmquant.pipeline.check import check_directory
    from glmquant.streaming.resources import Resources

    resources, recipe = Resources.named(device, memory_limit), _loaded(recipe)
    options = with_files(recipe.check, _names(text), None if tasks is None else _names(tasks))
    with shown(progress) as told:
        return check_directory(
            _path(bundle),
            _baseline(baseline, recipe, adapter, save_baseline, told),
            options,
            recipe=recipe,
            against=read_report(against) if isinstance(against, str | Path) else against,
            cache=None if cache is None else Path(cache),
            save_baseline=None if save_baseline is None else Path(save_baseline),
            out=None if out is None else Path(out),
            resources=resources,
            progress=told,
        )


def read_report(path: str | Path) -> "AccuracyReport":
    """Read a report from its ``report.json``, or from the directory that holds it.

    Raises:
        CheckError: no such file, or no report that this release can read.
    """
    from glmquant.reports.read import read_report as read

    return read(Path(path))


def report(reports: Sequence[str | Path] | str | Path, out: str | Path) -> None:
    """Write the HTML page of the first report, with the others drawn beside it: quality against size.

    Bundles that share a name are told apart by the directories their reports lie in.

    Raises:
        CheckError: no report is given, or one that cannot be read.
    """
    if not _names(reports):
        raise CheckError("there is no report to show", where="reports", expected="one or more")
    from glmquant.reports.read import circumstances_of
    from glmquant.reports.write import named_apart, write_page

    paths = [Path(path) for path in _names(reports)]
    write_page(named_apart([(path, read_report(path)) for path in paths]), Path(out), made=circumstances_of(paths[0]))


def compare_reports(reports: Sequence[str | Path], out: str | Path | None = None) -> "ReportComparison":
    """Compare checks of several quantizations of one model with the first of them, paired by window and by example.

    Args:
        reports: a ``report.json`` each, or the directory that holds it.
        out: HTML file to write, with the table and the first report in full.

    Raises:
        CheckError: fewer than two, one that cannot be read, or one that was measured on other data or another baseline.
        OutputError: ``out`` cannot be written.
    """
    from glmquant.reports.comparison import compare_reports as compared
    from glmquant.reports.read import circumstances_of
    from glmquant.reports.write import write_page

    paths = [Path(path) for path in _names(reports)]
    comparison = compared([(path, read_report(path)) for path in paths])
    if out is not None:
        write_page(comparison.reports, Path(out), comparison.table(), circumstances_of(paths[0]))
        comparison = replace(comparison, page=Path(out))
    return comparison


def compare_recipes(
    model: "Checkpoint | str | Path",
    recipes: "Mapping[str, Recipe | str | Path] | Sequence[str | Path]",
    *,
    adapter: Directory = None,
    data: Files = None,
    text: Files = None,
    tasks: Sequence[str | Path] | None = None,
    out: str | Path,
    memory_limit: int | None = None,
    device: str = "cpu",
    progress: Progress | bool = False,
) -> "ReportComparison":
    """Run several recipes on a model and compare what comes of them: the same calibration, the same texts and tasks,
    differences from the first recipe paired by window and by example.

    All are run with the first one's ``calibration`` and ``check``; rules, fit and export are each recipe's own. ``out``
    gets a directory for each, as :func:`run` writes it, what the float model said in ``baseline/``, once for all, and
    the page ``comparison.html``. What an earlier call finished is not done again.

    Args:
        recipes: by the names to tell them apart by, ``{"rtn": "int4-g128-rtn", "mine": recipe}``; or by name or path.
        adapter: as in :func:`inspect`.
        data: files to calibrate on instead of the first recipe's ``calibration.data``.
        text, tasks: as in :func:`check`.
        memory_limit, device: as in :func:`calibrate`.

    Returns:
        The comparison: its ``table()``, printed as text, and the path of its ``page``.

    Raises:
        RecipeError: fewer than two recipes, or names that do not tell them apart.
    """
    from glmquant.evaluation.bundle import with_files
    from glmquant.pipeline.compare import compare_recipes as compared
    from glmquant.pipeline.compare import named_recipes, on_the_same_ground
    from glmquant.streaming.resources import Resources

    loaded = {name: _loaded(recipe) for name, recipe in named_recipes(recipes).items()}
    name, first = next(iter(loaded.items()))
    options = with_files(first.check, _names(text), None if tasks is None else _names(tasks))
    calibration = first.calibration.model_copy(update={"data": _names(data), "weights": ()} if data else {})
    loaded[name] = first.model_copy(update={"check": options, "calibration": calibration})
    with shown(progress) as told:
        checkpoint = _opened(model, first, adapter, told)
        resources = Resources.named(device, memory_limit)
        return compared(checkpoint, on_the_same_ground(loaded), Path(out), resources, told)


def run(
    model: "Checkpoint | str | Path",
    recipe: "Recipe | str | Path",
    *,
    adapter: Directory = None,
    against: "AccuracyReport | str | Path | None" = None,
    cache: str | Path | None = None,
    out: str | Path,
    memory_limit: int | None = None,
    device: str = "cpu",
    force: bool = False,
    progress: Progress | bool = False,
) -> "AccuracyReport":
    """Calibrate, quantize, export and check; ``out`` gets ``quantized/``, ``onnx/`` and ``report/``.

    With ``train.data`` a classifier is trained first: ``out`` gets ``classifier/`` too, and ``test.jsonl``, what it is
    checked on, where the recipe names no ``check.tasks``. What an earlier run with the same inputs finished is not done
    again; a whole run that is finished already gives its report.

    Args:
        adapter: as in :func:`inspect`.
        against, cache: as in :func:`check`.
        force: start anew, and replace what ``out`` holds.
        memory_limit, device: as in :func:`calibrate`.
    """
    from glmquant.pipeline.run import run_directory
    from glmquant.streaming.resources import Resources

    resources, recipe = Resources.named(device, memory_limit), _loaded(recipe)
    earlier = read_report(against) if isinstance(against, str | Path) else against
    with shown(progress) as told:
        checkpoint = _opened(model, recipe, adapter, told)
        kept = None if cache is None else Path(cache)
        return run_directory(checkpoint, recipe, Path(out), resources, earlier, told, force, kept)


def open_chat(
    bundle: "OnnxBundle | str | Path",
    *,
    system: str | None = None,
    thinking: bool | None = None,
    options: GenerationOptions | None = None,
    provider: "Provider" = "cpu",
) -> "Chat":
    """Open a conversation with the bundle: ``for piece in chat.say("你好")``.

    Args:
        system: what the model is told before the first turn, where its chat template takes a system message.
        thinking: whether the model is to think before it answers, where its chat template has a switch for that; None
            for the template's own default.
    """
    from glmquant.runtime.chat import Chat
    from glmquant.runtime.model import OnnxModel
    from glmquant.runtime.tokenizer import load_bundle_tokenizer

    path = _path(bundle)
    model = OnnxModel.open(path, provider=provider)
    return Chat(model, load_bundle_tokenizer(path), options or GenerationOptions(), thinking, system)


def generate(
    bundle: "OnnxBundle | str | Path",
    prompt: str,
    *,
    chat: bool = True,
    system: str | None = None,
    thinking: bool | None = None,
    options: GenerationOptions | None = None,
    provider: "Provider" = "cpu",
) -> Iterator[str]:
    """Answer a prompt, piece by piece as it is generated.

    Args:
        chat: put the prompt into the model's chat template; else continue it as text.
        system, thinking: as in :func:`open_chat`; without the chat template they have no meaning.
    """
    from glmquant.glm.tokenizers.tokenizer import StreamDecoder
    from glmquant.runtime.generate import generate as generate_ids
    from glmquant.runtime.model import OnnxModel
    from glmquant.runtime.text import stream_text
    from glmquant.runtime.tokenizer import load_bundle_tokenizer

    if chat:
        return open_chat(bundle, system=system, thinking=thinking, options=options, provider=provider).say(prompt)
    if system is not None:
        raise GenerationError(
            "a prompt that is continued as text has no chat template to put a system message into",
            where=Parameter("system"),
            hint="put it at the start of the prompt, or use the chat template",
        )
    if thinking is not None:
        raise GenerationError(
            "a prompt that is continued as text has no chat template to switch thinking",
            where=Parameter("thinking"),
            hint="leave it out, or use the chat template",
        )
    path = _path(bundle)
    model, tokenizer = OnnxModel.open(path, provider=provider), load_bundle_tokenizer(path)
    prompt_ids = [*tokenizer.prefix_ids, *tokenizer.encode(prompt)]
    return stream_text(generate_ids(model, prompt_ids, options or GenerationOptions()), StreamDecoder(tokenizer))


def train_classifier(
    model: "Checkpoint | str | Path",
    data: str | Path,
    recipe: "Recipe | str | Path | None" = None,
    *,
    adapter: Directory = None,
    out: str | Path,
    memory_limit: int | None = None,
    device: str = "cpu",
    progress: Progress | bool = False,
) -> "TrainingReport":
    """Train a classifier on labeled texts by the recipe's ``train`` section; ``out`` gets its checkpoint.

    An unfinished run with the same inputs is taken up.

    Args:
        data: records with a text and a label, or a directory with a file or a directory for each label
            (docs/data.md).
        adapter: as in :func:`inspect`.
        memory_limit, device: as in :func:`calibrate`, for the frozen model's pass.
    """
    from glmquant.streaming.resources import Resources
    from glmquant.train.directory import read_training_data, train_directory

    resources, recipe = Resources.named(device, memory_limit), _loaded(recipe)
    labeled = read_training_data(str(data), recipe.train)
    with shown(progress) as told:
        checkpoint = _opened(model, recipe, adapter, told)
        return train_directory(checkpoint, labeled, recipe.train, Path(out), resources, told)


def classify(
    bundle: "OnnxBundle | str | Path", texts: Sequence[str], *, progress: Progress | bool = False
) -> "list[Classification]":
    """Label each text, with the probabilities of all labels, by a classifier's bundle.

    A text longer than the bundle's ``max_length`` is read up to there, and its ``truncated`` says so.
    """
    from glmquant.runtime.classify import OnnxClassifier
    from glmquant.runtime.classify import classify as classify_texts
    from glmquant.runtime.tokenizer import load_bundle_tokenizer

    path, texts = _path(bundle), [texts] if isinstance(texts, str) else texts
    with shown(progress) as told:
        return classify_texts(OnnxClassifier.open(path), texts, load_bundle_tokenizer(path), told)


def verify(directory: "Checkpoint | OnnxBundle | str | Path", *, progress: Progress | bool = False) -> "Verification":
    """Read every file of a quantized checkpoint, a bundle or a run's directory, and compare it with its hash.

    What an earlier release wrote has no hashes: ``without_hashes`` of what comes back names it, and ``is_complete`` is
    false then.

    Args:
        progress: is told how many bytes have been read; True shows it.

    Raises:
        CheckpointError: the first file that is missing, cut short, other bytes than were written, or none of those
            written where it would be read.
    """
    from glmquant.core.hub_cache import snapshot
    from glmquant.store.verify import verify as verified

    path = directory if isinstance(directory, str | Path) else directory.path
    with shown(progress) as told:
        return verified(snapshot(Path(path)), told)


def push(
    bundle: "OnnxBundle | str | Path",
    repo: str,
    *,
    upload: bool = False,
    private: bool = False,
    progress: Progress | bool = False,
) -> "Push":
    """Publish a bundle to a repository of the Hugging Face hub, by huggingface_hub; by default, only say what would be.

    Every file is compared with its hash first, and only what `export` and `run` wrote is published. The license of the
    base model holds for it too.

    Args:
        repo: ``ORG/NAME``; it is made where there is none.
        upload: really do it; the token is huggingface_hub's (``hf auth login``, or ``HF_TOKEN``).
        private: where the repository is made.

    Raises:
        CheckpointError: what :func:`verify` raises.
        HubError: no id of a repository, or the hub refuses.
    """
    from glmquant.hub.push import Push, repository_url
    from glmquant.hub.push import upload as uploaded
    from glmquant.runtime.session import require_bundle
    from glmquant.store.artifact import license_files
    from glmquant.store.base_card import read_base_card
    from glmquant.store.inventory import files_of
    from glmquant.store.manifest import MANIFEST, read_manifest

    path, url = _path(bundle), repository_url(repo)
    require_bundle(path)
    verify(path, progress=progress)
    manifest = read_manifest(path / MANIFEST)
    names = {*manifest.files, MANIFEST} if manifest.files else files_of(path)
    planned = Push(
        url=url,
        files={name: (path / name).stat().st_size for name in sorted(names)},
        base_model=manifest.origin,
        license=read_base_card(path).license,
        license_files=license_files(path),
    )
    if not upload:
        return planned
    message = f"{manifest.origin} as ONNX, by glmquant {manifest.glmquant_version}"
    return replace(planned, commit=uploaded(path, repo, planned.files, private=private, message=message))


def _loaded(recipe: "Recipe | str | Path | None") -> "Recipe":
    from glmquant.recipe.load import load_recipe

    return load_recipe(recipe) if recipe is None or isinstance(recipe, str | Path) else recipe


def _opened(
    model: "Checkpoint | str | Path", recipe: "Recipe | None", adapter: Directory, progress: Progress
) -> "Checkpoint":
    """The checkpoint, downloaded where it is nowhere here, its lineage as the recipe says, the adapter merged."""
    from glmquant.core.ranks import current
    from glmquant.hub.locate import locate
    from glmquant.store.adapter import open_adapter
    from glmquant.store.checkpoint import Checkpoint, open_checkpoint, with_adapter

    if not isinstance(model, Checkpoint | str | Path):
        raise CheckpointError(f"{model!r} is no checkpoint", expected="a checkpoint, or the path of its directory")
    if not isinstance(model, Checkpoint):
        with current().first_here():
            found = locate(model, progress)
        model = open_checkpoint(found.path, family=recipe.model.family if recipe else None, origin=found.origin)
    return model if adapter is None else with_adapter(model, open_adapter(adapter))


def _baseline(
    baseline: "Checkpoint | str | Path", recipe: "Recipe", adapter: Directory, save: Directory, progress: Progress
) -> "Checkpoint | StoredBaseline":
    """The float side of a check: a checkpoint, or what one said on an earlier occasion."""
    from glmquant.core.ranks import current
    from glmquant.evaluation.stored_baseline import open_stored_baseline, require_writable_baseline

    if save is not None and current().is_first:
        require_writable_baseline(Path(save))
    if not isinstance(baseline, str | Path) or not Path(baseline).is_file():
        return _opened(baseline, recipe, adapter, progress)
    if adapter is not None or save is not None:
        raise CheckError(
            "a stored baseline takes no adapter and is not stored again",
            where=Parameter("adapter" if adapter is not None else "save_baseline"),
            expected="a float checkpoint as the baseline",
        )
    return open_stored_baseline(Path(baseline))


def _path(bundle: "OnnxBundle | str | Path") -> Path:
    from glmquant.core.hub_cache import snapshot
    from glmquant.onnx_export.bundle import OnnxBundle

    if isinstance(bundle, OnnxBundle):
        return bundle.path
    if not isinstance(bundle, str | Path):
        raise ExportError(f"{bundle!r} is no ONNX bundle", expected="a bundle, or the path of its directory")
    return snapshot(Path(bundle))


def _names(files: Files) -> tuple[str, ...]:
    """One file or several, by name."""
    if files is None:
        return ()
    return (str(files),) if isinstance(files, str | Path) else tuple(map(str, files))
