"""A LoRA adapter's directory, opened: every tensor of it has a meaning, and none is read yet.

PEFT writes ``adapter_config.json`` and ``adapter_model.safetensors``, earlier ``adapter_model.bin``. A tensor is one
half of an addition, ``base_model.model.MODULE.lora_A.weight``, or what was trained as a whole,
``base_model.model.MODULE.weight``; training frameworks put prefixes before it and the adapter's name inside.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from glmquant.core.untrusted import file_inside, shown
from glmquant.errors import CheckpointError, Parameter
from glmquant.store.adapter_config import ADAPTER_CONFIG, MERGE_FIRST, AdapterConfig, read_adapter_config
from glmquant.store.shards import READERS
from glmquant.store.tensors import CHUNK_BYTES, StoredTensor

WEIGHTS: Final = ("adapter_model.safetensors", "adapter_model.bin")
WRAPPERS: Final = ("module.", "_orig_mod.", "base_model.model.")
HALVES: Final = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")
MAGNITUDE: Final = "lora_magnitude_vector"
LONGEST_NAME: Final = 1000

_LORA: Final = re.compile(rf"(.+)\.({'|'.join((*HALVES, MAGNITUDE))})((?:\.\w[\w-]*){{0,2}})")
_INSIDE: Final = re.compile(r"\.(?:base_layer|modules_to_save(?:\.[^.]+)?)(?=\.(?:weight|bias)$)")
_ORIGINAL: Final = re.compile(r"\.original_module(?=\.(?:weight|bias)$)")


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to one module's weight ``[N, K]``: ``scale * B A``.

    Attributes:
        module: its name in the model that was trained.
        down: ``lora_A [R, K]``; of an embedding ``[N, K]`` ``lora_embedding_B [K, R]``.
        up: ``lora_B [N, R]``; of an embedding ``lora_embedding_A [R, N]``.
        transposed: it is an embedding's.
        magnitude: ``[N]``, what DoRA makes each row's norm; None where it does not.
        bias: ``[N]``, added to the module's bias, scaled; None where there is none.
    """

    module: str
    down: StoredTensor
    up: StoredTensor
    transposed: bool
    scale: float
    magnitude: StoredTensor | None = None
    bias: StoredTensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight it is added to."""
        rows, columns = (1, 0) if self.transposed else (0, 1)
        return self.up.shape[rows], self.down.shape[columns]

    @property
    def ranks(self) -> tuple[int, int]:
        """Of both matrices; they are to be equal."""
        inner = (0, 1) if self.transposed else (1, 0)
        return self.up.shape[inner[0]], self.down.shape[inner[1]]


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA adapter on disk.

    Attributes:
        path: the directory.
        weights: the file with its tensors.
        additions: by module name.
        copies: what was trained as a whole, by tensor name (``lm_head.weight``).
    """

    path: Path
    config: AdapterConfig
    weights: Path
    additions: Mapping[str, LowRank]
    copies: Mapping[str, StoredTensor]

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def sha256(self) -> str:
        """Of the file of weights, as ``sha256sum`` gives it."""
        digest = hashlib.sha256()
        with self.weights.open("rb") as file:
            while part := file.read(CHUNK_BYTES):
                digest.update(part)
        return digest.hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of what decides the merged weights: configuration and tensors."""
        return hashlib.sha256(self.config.path.read_bytes() + self.sha256.encode()).hexdigest()


def open_adapter(directory: str | Path) -> Adapter:
    """Opens an adapter's directory as PEFT writes it; no code of it runs.

    Raises:
        CheckpointError: no adapter, one that is not LoRA, or tensors of which one is missing, damaged, or unknown.
    """
    path = _existing(directory)
    config = read_adapter_config(file_inside(path, ADAPTER_CONFIG, where=path))
    weights = _weights(path)
    parts = _Parts(weights)
    for name, tensor in READERS[weights.suffix](weights).items():
        parts.add(name, tensor)
    if not parts.halves and not parts.copies:
        raise CheckpointError(
            "the adapter holds no tensors",
            where=weights,
            expected="lora_A and lora_B of each adapted module",
            hint="give the adapter of one of the training's checkpoints, if that holds some",
        )
    additions = {module: _addition(module, halves, config, weights) for module, halves in parts.halves.items()}
    return Adapter(path, config, weights, additions, parts.copies)


def _existing(directory: str | Path) -> Path:
    path = Path(directory)
    if not path.is_dir():
        raise CheckpointError(
            "the adapter's directory does not exist" if not path.exists() else "an adapter is a directory, not a file",
            where=Parameter("adapter", str(directory)),
            expected=f"a directory on this machine with {ADAPTER_CONFIG} and {WEIGHTS[0]}",
        )
    if (path / ADAPTER_CONFIG).exists():
        return path.resolve()
    raise CheckpointError(
        f"the directory has no {ADAPTER_CONFIG}",
        where=path,
        expected="a LoRA adapter as PEFT writes it",
        hint=_instead(path),
    )


def _instead(path: Path) -> str:
    """What to do with a directory that is no adapter."""
    below = sorted(found.parent.name for found in path.glob(f"*/{ADAPTER_CONFIG}"))
    if below:
        return f"{len(below)} of its directories hold an adapter: give one, such as {path / below[-1]}"
    if (path / "config.json").exists():
        return "it holds a config.json, as a whole model does: give it as the model, without an adapter"
    return "give the directory that the training wrote, with save_pretrained, its adapter to"


def _weights(path: Path) -> Path:
    name = next((name for name in WEIGHTS if (path / name).exists()), None)
    if name is None:
        raise CheckpointError(
            "the adapter's directory holds no weights", where=path, expected=" or ".join(WEIGHTS),
            hint="download or copy the adapter again, completely",
        )  # fmt: skip
    return file_inside(path, name, where=path)


@dataclass
class _Parts:
    """Tensors sorted by the module that they belong to and what they are of it."""

    file: Path
    halves: dict[str, dict[str, StoredTensor]] = field(default_factory=dict)
    copies: dict[str, StoredTensor] = field(default_factory=dict)

    def add(self, name: str, tensor: StoredTensor) -> None:
        if 0 in tensor.shape:
            raise CheckpointError(
                f"the tensor {shown(name)} is of shape {list(tensor.shape)}: a placeholder of DeepSpeed's ZeRO-3",
                where=self.file,
                expected="the gathered weights",
                hint="save the adapter with stage3_gather_16bit_weights_on_model_save, or make it of the training's "
                "checkpoint with DeepSpeed's zero_to_fp32.py",
            )
        if not tensor.dtype.is_floating_point:
            raise CheckpointError(f"the tensor {shown(name)} is {tensor.dtype}", where=self.file, expected="a float tensor")
        short = _unwrapped(name)
        if len(short) > LONGEST_NAME:
            raise CheckpointError(f"a tensor's name has {len(short)} characters", where=self.file)
        found = _LORA.fullmatch(short)
        if found is not None:
            self._put(self.halves.setdefault(found[1], {}), _role(found[2], found[3]), name, tensor)
        elif not _ORIGINAL.search(short):
            self._put(self.copies, _INSIDE.sub("", short), name, tensor)

    def _put(self, parts: dict[str, StoredTensor], role: str, name: str, tensor: StoredTensor) -> None:
        if role in parts:
            raise CheckpointError(
                f"the file holds both {shown(parts[role].name)} and {shown(name)}",
                where=self.file,
                expected="one adapter",
                hint="save one adapter a directory: save_pretrained(…, selected_adapters=[…])",
            )
        parts[role] = tensor


def _unwrapped(name: str) -> str:
    while (wrapper := next((each for each in WRAPPERS if name.startswith(each)), None)) is not None:
        name = name.removeprefix(wrapper)
    return name


def _role(half: str, rest: str) -> str:
    """``lora_B.bias`` of ``lora_B.default.bias``; ``lora_A`` of ``lora_A.default.weight``."""
    return f"{half}.bias" if rest.endswith(".bias") else half


def _addition(module: str, parts: dict[str, StoredTensor], config: AdapterConfig, file: Path) -> LowRank:
    transposed = HALVES[2] in parts or HALVES[3] in parts
    first, second = HALVES[2:] if transposed else HALVES[:2]
    for half, other in ((first, second), (second, first)):
        if half not in parts:
            raise CheckpointError(
                f"{shown(module)} has {next(iter(parts))} and no {half}",
                where=file,
                expected=f"both {half} and {other}",
                hint="the file is incomplete: copy the adapter again, or give one of another checkpoint of the training",
            )
        if len(parts[half].shape) != 2:
            raise _odd_shape(parts[half], file)
    _reject_leftovers(module, parts, {first, second, f"{second}.bias", MAGNITUDE}, file)
    down, up = (parts[second], parts[first]) if transposed else (parts[first], parts[second])
    addition = LowRank(module, down, up, transposed, config.scale(module), parts.get(MAGNITUDE), parts.get(f"{second}.bias"))
    _check_rank(addition, config, file)
    _check_magnitude(addition, config, file)
    return addition


def _odd_shape(tensor: StoredTensor, file: Path) -> CheckpointError:
    return CheckpointError(
        f"the tensor {shown(tensor.name)} is of shape {shown(list(tensor.shape))}",
        where=file,
        expected="a matrix: PEFT before 0.3 kept the parts of a fused layer in another form",
        hint=MERGE_FIRST,
    )


def _reject_leftovers(module: str, parts: Mapping[str, StoredTensor], known: set[str], file: Path) -> None:
    for role in parts.keys() - known:
        raise CheckpointError(
            f"{shown(module)} has {role} beside {', '.join(sorted(parts.keys() & known))}",
            where=file,
            expected="one addition a module",
        )


def _check_rank(addition: LowRank, config: AdapterConfig, file: Path) -> None:
    """The scale follows from the rank, so that a configuration of another rank is one of another training."""
    module, (rank, other), told = shown(addition.module), addition.ranks, config.rank_of(addition.module)
    if rank != other or rank > max(addition.shape):
        raise CheckpointError(
            f"the two matrices of {module} are {list(addition.up.shape)} and {list(addition.down.shape)}",
            where=file,
            expected="one rank, and a low one",
        )
    if rank != told:
        raise CheckpointError(
            f"{module} is of rank {rank}, and {ADAPTER_CONFIG} says {told}",
            where=config.path,
            expected="the configuration that the adapter was trained with, since the scale follows from the rank",
            hint=f"if lora_alpha is right, set r there to {rank}, or rank_pattern where ranks differ",
        )


def _check_magnitude(addition: LowRank, config: AdapterConfig, file: Path) -> None:
    magnitude = addition.magnitude
    if (magnitude is not None) != config.weight_decomposed:
        has = "no" if magnitude is None else "a"
        raise CheckpointError(
            f"{shown(addition.module)} has {has} {MAGNITUDE}, and use_dora is {str(config.weight_decomposed).lower()}",
            where=config.path,
            expected="a magnitude for each module of a DoRA adapter, and none elsewhere",
            hint=None if magnitude is None else "set use_dora to true there: the tensors are a DoRA adapter's",
        )
    if magnitude is None:
        return
    if addition.transposed:
        raise CheckpointError(
            f"{shown(addition.module)} is an embedding with DoRA, which is not implemented", where=file, hint=MERGE_FIRST
        )
    if magnitude.shape != addition.shape[:1]:
        raise CheckpointError(
            f"the tensor {shown(magnitude.name)} is of shape {shown(list(magnitude.shape))}",
            where=file,
            expected=f"{list(addition.shape[:1])}, a number a row",
        )
