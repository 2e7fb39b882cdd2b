"""ONNX Runtime sessions of a bundle's graph."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnxruntime as ort

from glmquant.core.placeholders import refuse_placeholder_at
from glmquant.core.untrusted import file_inside, read_json, shown
from glmquant.errors import CheckpointError, ExportError, Parameter
from glmquant.glm.layouts.hf_config import read_bundle_config
from glmquant.store.recognize import without_graph

GRAPH_FILE = "model.onnx"
WEIGHTS_FILE = "model.onnx.data"
SETTINGS_FILE = "genai_config.json"
CONFIG_FILE = "config.json"
FILES = (GRAPH_FILE, WEIGHTS_FILE, SETTINGS_FILE, CONFIG_FILE)
INPUTS = ("input_ids", "attention_mask")
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
    graph = directory / GRAPH_FILE
    try:
        session = ort.InferenceSession(graph, session_options(settings, num_threads), providers=[PROVIDERS[provider]])
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
    """Check that ``directory`` holds a bundle, of files that lie in it or in the hub's cache it is a snapshot of.

    Raises:
        ExportError: it has no ``model.onnx``, or something else in place of a file.
    """
    if not os.path.lexists(directory / GRAPH_FILE):
        raise without_graph(directory)
    try:
        for name in FILES:
            if os.path.lexists(directory / name):
                refuse_placeholder_at(file_inside(directory, name, where=directory))
    except CheckpointError as error:
        raise ExportError(error.what, where=error.where, expected=error.expected, hint=error.hint) from error


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
        ExportError: it is missing or damaged.
    """
    path = directory / SETTINGS_FILE
    try:
        model = read_json(path)["model"]
        options: dict[str, Any] = model["decoder"]["session_options"]
        entries = {name: value for name, value in options.items() if "." in name}
        settings = Settings(tuple(model["eos_token_id"]), model["pad_token_id"], entries)
    except (CheckpointError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"cannot read the bundle's special token ids: {error!r}",
            where=path,
            expected="model.eos_token_id, a list, model.pad_token_id and model.decoder.session_options",
            hint="export the model again",
        ) from error
    _refuse_paths(settings.entries, path)
    return settings


def _refuse_paths(entries: dict[str, str], path: Path) -> None:
    """A bundle's files lie in its directory: no entry may send ONNX Runtime to another one, or make it write."""
    for name in entries:
        if any(word in name for word in ("path", "file", "folder", "library")):
            raise ExportError(
                f"session_options names a file: {shown(name)}",
                where=path,
                expected="options of computing alone",
                hint="remove it; a bundle's files lie in its own directory",
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
    known = {*INPUTS, *keys, *(name.removesuffix("key") + "value" for name in keys)}
    if not keys or set(inputs) != known or "logits" not in outputs or "glmquant.max_length" not in metadata:
        raise ExportError(
            f"{directory / GRAPH_FILE} was not exported by glmquant: its inputs are {sorted(inputs)[:4]} …",
            where=directory / GRAPH_FILE,
            expected=f"inputs {', '.join(INPUTS)}, past_key_values.*; output logits; metadata glmquant.max_length",
            hint="export the checkpoint with glmquant",
        )
    _, heads, _, width = inputs[keys[0]].shape
    return BundleInfo(
        num_layers=len(keys),
        num_key_value_heads=heads,
        cache_width=width,
        cache_dtype=CACHE_DTYPES[inputs[keys[0]].type],
        cache_grows=metadata["glmquant.profile"] == "standard",
        vocab_size=outputs["logits"].shape[2],
        max_length=int(metadata["glmquant.max_length"]),
        eos_ids=settings.eos_ids,
        pad_id=settings.pad_id,
        accuracy_level=int(metadata["glmquant.accuracy_level"]),
        provider=provider,
    )


def session_options(settings: Settings, num_threads: int | None) -> ort.SessionOptions:
    """Those of every session of a bundle."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
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
        hint="on a machine with an NVIDIA GPU, install onnxruntime-gpu in place of onnxruntime; or use provider cpu",
    )
