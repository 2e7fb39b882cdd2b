"""A calibration on disk: two files in a directory.

    calibration.json          format, tokens' sha256, tokenizer, sources, seed, sampling, layers (with ranges, or 0)
    calibration.safetensors   tokens                         int64   [S, L]; a hash of itself and of the other file
                              key_values.{layer}.key_absmax  float32 [C, E]
                              key_values.{layer}.value_absmax

Format 2 has no hash of ranges and description. Format 1, of release 0.1, also held the ranges of every linear layer's
inputs, which nothing read; it is read without them.

Shape suffixes: S samples, L tokens of a sample, C key/value heads, E head size.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from glmquant.core.files import write_json
from glmquant.core.near import did_you_mean
from glmquant.core.several import Several
from glmquant.data.calibration import Calibration, CalibrationSet, KeyValueRange, Sampling, TextSource
from glmquant.errors import CalibrationError, CheckpointError
from glmquant.store.inventory import sha256_of
from glmquant.store.safetensors_file import read_metadata
from glmquant.store.sealed_tensors import require_seal, write_sealed

DESCRIPTION, TENSORS = "calibration.json", "calibration.safetensors"
FORMAT = 3
READ_FORMATS = (1, 2, FORMAT)
ABOUT = "description"
"""Of the tensors' metadata: sha256 of the description."""
LARGEST_DESCRIPTION_BYTES = 1 << 24


@dataclass(frozen=True)
class _Description:
    format: int
    sha256: str
    tokenizer: str
    sources: Several[TextSource]
    seed: int
    sampling: Sampling
    layers: int


def write_calibration(calibration: Calibration, directory: Path) -> None:
    """Writes both files into an existing directory; equal calibrations give equal bytes."""
    samples = calibration.samples
    description = _Description(
        format=FORMAT,
        sha256=samples.sha256,
        tokenizer=samples.tokenizer,
        sources=samples.sources,
        seed=samples.seed,
        sampling=samples.sampling,
        layers=len(calibration.key_values),
    )
    write_json(directory / DESCRIPTION, asdict(description), indent=1)
    write_sealed(directory / TENSORS, _tensors(calibration), {ABOUT: sha256_of(directory / DESCRIPTION)})


def read_calibration(directory: Path) -> Calibration:
    """What :func:`write_calibration` wrote.

    Raises:
        CalibrationError: a file is missing, damaged, or does not fit the other.
    """
    description = _read_description(directory / DESCRIPTION)
    _require_what_was_written(directory, description.format)
    tensors = _read_tensors(directory / TENSORS)
    key_values = tuple(
        KeyValueRange(
            _range(tensors, f"key_values.{layer}.key_absmax"), _range(tensors, f"key_values.{layer}.value_absmax")
        )
        for layer in range(description.layers)
    )
    return Calibration(_samples(tensors, description, directory), key_values)


def _tensors(calibration: Calibration) -> dict[str, Tensor]:
    tensors = {"tokens": calibration.samples.tokens_SL}
    for layer, cache in enumerate(calibration.key_values):
        tensors[f"key_values.{layer}.key_absmax"] = cache.key_absmax_CE
        tensors[f"key_values.{layer}.value_absmax"] = cache.value_absmax_CE
    return tensors


def _read_description(path: Path) -> _Description:
    if not path.is_file():
        raise CalibrationError(
            f"no {path.name} in {path.parent}",
            where=path,
            expected="a directory that a calibration was written to",
            hint=(None if path.parent.is_dir() else did_you_mean(path.parent, "directory")) or "calibrate first",
        )
    if path.stat().st_size > LARGEST_DESCRIPTION_BYTES:
        raise CalibrationError(f"{path.name} is larger than {LARGEST_DESCRIPTION_BYTES:,} bytes", where=path)
    try:
        description = TypeAdapter(_Description).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise CalibrationError(
            f"{path.name} is damaged: {first['msg']}", where=f"{path}, {field}", hint="calibrate again"
        ) from None
    if description.format not in READ_FORMATS:
        raise CalibrationError(
            f"calibration format {description.format} is not known",
            where=path,
            expected=f"1 to {FORMAT}",
        )
    return description


def _require_what_was_written(directory: Path, format_: int) -> None:
    """Both files; whatever format the description claims, tensors that carry a hash are held to it."""
    path = directory / TENSORS
    try:
        about = read_metadata(path).get(ABOUT)
        if about is None and format_ < FORMAT:
            return
        require_seal(path)
    except CheckpointError as error:
        raise CalibrationError(f"cannot read {TENSORS}: {error.what}", where=path, hint="calibrate again") from error
    if about != sha256_of(directory / DESCRIPTION):
        raise CalibrationError(
            f"{DESCRIPTION} was changed since it was written",
            where=directory / DESCRIPTION,
            expected=f"sha256 {about}",
            hint="calibrate again",
        )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        if not path.is_file():
            raise FileNotFoundError("no such file, or none that ends")
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CalibrationError(f"cannot read {path.name}: {error}", where=path, hint="calibrate again") from None


def _range(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    tensor = tensors.get(name)
    if tensor is None or tensor.dtype != torch.float32 or tensor.dim() != 2:
        raise CalibrationError(f"{TENSORS} has no float32 tensor {name} of 2 dimensions", where=name)
    if not (torch.isfinite(tensor) & (tensor >= 0)).all():
        raise CalibrationError(f"{name} holds values that are negative or not finite", where=f"{TENSORS}, {name}")
    return tensor


def _samples(tensors: Mapping[str, Tensor], description: _Description, directory: Path) -> CalibrationSet:
    tokens_SL = tensors.get("tokens")
    if tokens_SL is None or tokens_SL.dtype != torch.int64 or tokens_SL.dim() != 2:
        raise CalibrationError("no int64 tensor `tokens` of 2 dimensions", where=directory / TENSORS)
    samples = CalibrationSet(
        tokens_SL, description.sources, description.tokenizer, description.seed, description.sampling
    )
    if samples.sha256 != description.sha256:
        raise CalibrationError(
            f"the tokens in {TENSORS} are not those that {DESCRIPTION} describes",
            where=directory,
            expected=f"sha256 {description.sha256}",
            hint="calibrate again",
        )
    return samples
