"""ONNX Runtime sessions of a bundle's graph."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnxruntime as ort

from glmquant.core.placeholders import refuse_placeholder_at
from glmquant.core.untrusted import MAX_INDEX_BYTES, file_inside, read_json, shown
from glmquant.errors import CheckpointError, ExportError, Parameter
from glmquant.glm.layouts.fields import LARGEST_SIZE, Fields
from glmquant.glm.layouts.hf_config import read_bundle_config
from glmquant.runtime.external_data import require_data_inside
from glmquant.store.recognize import without_graph
from glmquant.store.sealed_json import read_sealed

GRAPH_FILE = "model.onnx"
WEIGHTS_FILE = "model.onnx.data"
SETTINGS_FILE = "genai_config.json"
CONFIG_FILE = "config.json"
MANIFEST_FILE = "glmquant.json"
FILES = (GRAPH_FILE, WEIGHTS_FILE, SETTINGS_FILE, CONFIG_FILE, MANIFEST_FILE)
INPUTS = ("input_ids", "attention_mask")
HARMLESS = (
    "mlas.enable_gemm_fastmath_arm64_bfloat16",
    "session.disable_prepacking",
    "session.dynamic_block_base",
    "session.force_spinning_stop",
    "session.inter_op.allow_spinning",
    "session.intra_op.allow_spinning",
    "session.qdq_matmulnbits_accuracy_level",
    "session.set_denormal_as_zero",
)
"""Entries of a session that decide how it computes, and nothing else: they name no file, load no library, write
nothing."""

FATAL = 4
"""Errors are raised; logged as well, what a graph's names hold would reach the terminal as it is."""

INTEGER_PRODUCT = b"MatMulIntegerToFloat"
NUMBER = re.compile("[0-9]{1,4}")
NUMBER_OF_METADATA = re.compile("[0-9]{1,9}")
CACHE_DIMENSIONS = 4
Provider = Literal["cpu", "cuda"]
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
CACHE_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
}


@dataclass(frozen=True)
class BundleInfo:
    """A bundle's properties, from its graph and ``genai_config.json``.

    Attributes:
        num_layers, num_key_value_heads: of the KV cache.
        cache_width: last dimension of the KV cache: the head size, or half of it for a 4-bit cache.
        cache_dtype: ``float32``, ``float16``, ``int8`` or ``uint8``.
        cache_grows: each step returns a longer cache (profile ``standard``); else attention writes in place.
        vocab_size: width of the logits.
        max_length: maximum number of tokens, prompt and answer together.
        eos_ids: end-of-sequence ids.
        pad_id: padding id.
        accuracy_level: ``accuracy_level`` of its MatMulNBits operators.
        provider: execution provider.
    """

    num_layers: int
    num_key_value_heads: int
    cache_width: int
    cache_dtype: str
    cache_grows: bool
    vocab_size: int
    max_length: int
    eos_ids: tuple[int, ...]
    pad_id: int
    accuracy_level: int
    provider: Provider


@dataclass(frozen=True)
class Settings:
    """From ``genai_config.json``: token ids, and configuration entries of the session."""

    eos_ids: tuple[int, ...]
    pad_id: int
    entries: dict[str, str]


def open_session(
    directory: Path, settings: Settings, num_threads: int | None, provider: Provider
) -> ort.InferenceSession:
    """Open ``model.onnx``.

    Args:
        num_threads: within an operator; None lets ONNX Runtime use every core.

    Raises:
        ExportError: ONNX Runtime cannot load it, or does not have the execution provider.
    """
    require_provider(provider)
    graph, options = directory / GRAPH_FILE, session_options(settings, num_threads)
    if multiplies_integers(directory):
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        session = ort.InferenceSession(graph, options, providers=[PROVIDERS[provider]])
    except Exception as error:  # ONNX Runtime's own exceptions share no base class but this
        raise ExportError(
            f"ONNX Runtime cannot load {graph}: {error}",
            where=graph,
            expected=f"a graph and weights that onnxruntime {ort.__version__} can run",
            hint="export the model again; the files may be damaged or incomplete",
        ) from error
    if PROVIDERS[provider] not in session.get_providers():
        raise _missing(provider, f"it is installed but does not start; only {', '.join(session.get_providers())} do")
    return session


def multiplies_integers(directory: Path) -> bool:
    """Whether the graph multiplies activations and weights in 8-bit integers.

    Such sums saturate at 16 bits on a processor without VNNI, unless the session is asked for exact ones by
    ``session.x64quantprecision``; by which ONNX Runtime 1.32 damages blocks of int8 in other graphs.
    """
    return INTEGER_PRODUCT in (directory / GRAPH_FILE).read_bytes()


def require_provider(provider: Provider) -> None:
    """Check that the installed onnxruntime has the execution provider.

    Raises:
        ExportError: it was built without it, or there is no such provider.
    """
    if provider not in PROVIDERS:
        expected = "one of " + ", ".join(PROVIDERS)
        raise ExportError(f"no provider {provider!r}", where=Parameter("provider"), expected=expected)
    available = ort.get_available_providers()
    if PROVIDERS[provider] not in available:
        raise _missing(provider, f"onnxruntime {ort.__version__} here has {', '.join(available)}")


def require_bundle(directory: Path) -> None:
    """Check that ``directory`` holds a bundle, of files that lie in it or in the hub's cache it is a snapshot of;
    those that its graph names too. Nothing is hashed but the manifest.

    Raises:
        ExportError: it has no ``model.onnx``, or one that names files elsewhere, or something else in place of a file;
            or graph or weights of other sizes than its manifest has.
    """
    if not os.path.lexists(directory / GRAPH_FILE):
        raise without_graph(directory)
    try:
        for name in FILES:
            if os.path.lexists(directory / name):
                refuse_placeholder_at(file_inside(directory, name, where=directory))
        require_data_inside(directory, GRAPH_FILE)
        if (directory / MANIFEST_FILE).is_file():
            _require_sizes(directory)
    except CheckpointError as error:
        raise ExportError(error.what, where=error.where, expected=error.expected, hint=error.hint) from error


def _require_sizes(directory: Path) -> None:
    """That graph and weights are as long as the manifest says, which `verify` would tell by their hashes.

    Raises:
        CheckpointError: names the first that is not.
    """
    values, _ = read_sealed(directory / MANIFEST_FILE, MAX_INDEX_BYTES)
    files = values.get("files")
    for name in (GRAPH_FILE, WEIGHTS_FILE):
        record = files.get(name) if isinstance(files, dict) else None
        size = record.get("size") if isinstance(record, dict) else None
        if size is not None and file_inside(directory, name, where=directory).stat().st_size != size:
            raise CheckpointError(
                f"{name} is not as long as it was written",
                where=directory / name,
                expected=f"{shown(size)} bytes, as {MANIFEST_FILE} has it",
                hint="copy or download the bundle again, completely, or export the model again",
            )


def is_classifier(directory: Path) -> bool:
    """Whether the bundle is a classifier, by its ``config.json``.

    Raises:
        ExportError: ``directory`` is not a bundle.
    """
    require_bundle(directory)
    path = directory / CONFIG_FILE
    return path.is_file() and read_bundle_config(path).num_labels > 0


def read_settings(directory: Path) -> Settings:
    """Read ``genai_config.json``.

    Raises:
        ExportError: it is missing or damaged, or sets an entry of the session that is not in :data:`HARMLESS`.
    """
    path = directory / SETTINGS_FILE
    try:
        model = Fields(read_json(file_inside(directory, SETTINGS_FILE, where=directory)), path).section("model")
        eos_ids = model.token_ids("eos_token_id", LARGEST_SIZE, ())
        pad_id = model.integer("pad_token_id", low=0)
        options = model.section("decoder").section("session_options").values
    except CheckpointError as error:
        raise ExportError(
            f"cannot read the bundle's special token ids and session options: {error.what}",
            where=error.where,
            expected=error.expected or "model.eos_token_id, model.pad_token_id and model.decoder.session_options",
            hint="export the model again",
        ) from error
    entries = {name: value for name, value in options.items() if "." in name}
    _refuse_others(entries, path)
    return Settings(eos_ids, pad_id, entries)


def _refuse_others(entries: Mapping[str, object], path: Path) -> None:
    """A bundle decides how it is computed, and nothing outside of itself."""
    for name, value in entries.items():
        if name not in HARMLESS or not isinstance(value, str) or not NUMBER.fullmatch(value):
            raise ExportError(
                f"session_options sets {shown(name)} to {shown(value)}",
                where=path,
                expected=f"entries among {', '.join(HARMLESS)}, each a number in quotes",
                hint="remove it; a bundle decides how it is computed, and nothing else",
            )


def read_info(directory: Path, session: ort.InferenceSession, settings: Settings, provider: Provider) -> BundleInfo:
    """Read the bundle's properties from its session.

    Raises:
        ExportError: the graph was not exported by glmquant.
    """
    inputs = {value.name: value for value in session.get_inputs()}
    outputs = {value.name: value for value in session.get_outputs()}
    metadata = session.get_modelmeta().custom_metadata_map
    keys = [name for name in inputs if name.startswith("past_key_values.") and name.endswith(".key")]
    cache = [f"past_key_values.{layer}.{part}" for layer in range(len(keys)) for part in ("key", "value")]
    kinds = {(inputs[name].type, tuple(inputs[name].shape[1:])) for name in cache if name in inputs}
    if not keys or set(inputs) != {*INPUTS, *cache} or "logits" not in outputs or len(kinds) != 1:
        raise _not_ours(directory, f"its inputs are {shown(sorted(inputs)[:4])} …")
    ((dtype, shape),) = kinds
    try:
        sizes = [shape[0], shape[-1], outputs["logits"].shape[-1]]
        sizes += [parse_size(metadata[f"glmquant.{name}"]) for name in ("max_length", "accuracy_level")]
        profile, cache_dtype = metadata["glmquant.profile"], CACHE_DTYPES[dtype]
    except (LookupError, ValueError) as error:
        raise _not_ours(directory, f"{shown(str(error))} of its metadata or shapes") from error
    if len(shape) != CACHE_DIMENSIONS - 1 or not all(type(size) is int and 0 <= size <= LARGEST_SIZE for size in sizes):
        raise _not_ours(directory, f"a cache of {shown(shape)}, and sizes {shown(sizes[2:])}")
    heads, width, vocabulary, max_length, accuracy_level = sizes
    if not max(*settings.eos_ids, settings.pad_id) < vocabulary:
        raise ExportError(
            f"the bundle's special tokens reach to {max(*settings.eos_ids, settings.pad_id)}",
            where=directory / SETTINGS_FILE,
            expected=f"ids below the graph's vocabulary, {vocabulary}",
        )
    return BundleInfo(
        num_layers=len(keys),
        num_key_value_heads=heads,
        cache_width=width,
        cache_dtype=cache_dtype,
        cache_grows=profile == "standard",
        vocab_size=vocabulary,
        max_length=max_length,
        eos_ids=settings.eos_ids,
        pad_id=settings.pad_id,
        accuracy_level=accuracy_level,
        provider=provider,
    )


def parse_size(text: str) -> int:
    """A number in a graph's metadata. Raises ValueError for what is none, or has more digits than any here."""
    if not NUMBER_OF_METADATA.fullmatch(text):
        raise ValueError(f"{text[:40]!r} for a number")
    return int(text)


def _not_ours(directory: Path, why: str) -> ExportError:
    return ExportError(
        f"{directory / GRAPH_FILE} was not exported by glmquant: {why}",
        where=directory / GRAPH_FILE,
        expected=f"inputs {', '.join(INPUTS)}, past_key_values.*; output logits; metadata glmquant.max_length",
        hint="export the checkpoint with glmquant",
    )


def session_options(settings: Settings, num_threads: int | None) -> ort.SessionOptions:
    """Those of every session of a bundle."""
    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    if num_threads is not None:
        options.intra_op_num_threads = num_threads
    # Every decoding step has its own shapes, and ONNX Runtime would keep a memory pattern for each.
    options.enable_mem_pattern = False
    for name, value in settings.entries.items():
        options.add_session_config_entry(name, value)
    return options


def _missing(provider: Provider, why: str) -> ExportError:
    return ExportError(
        f"execution provider {provider} is not available: {why}",
        where=Parameter("provider"),
        expected=PROVIDERS[provider],
        hint="on a machine with an NVIDIA GPU, pip uninstall -y onnxruntime && "
        "pip install --force-reinstall --no-deps onnxruntime-gpu; or use provider cpu",
    )
