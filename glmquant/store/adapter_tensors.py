"""The tensors of a LoRA adapter's file: what each is, by its name, and whether those of a module fit together.

A tensor is one half of an addition, ``base_model.model.MODULE.lora_A.weight``, or it was trained as a whole and takes
the base's place, ``base_model.model.MODULE.weight``. Training frameworks put prefixes before the name, and PEFT's own
state dict has the adapter's name inside it (``lora_A.default.weight``).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from glmquant.core.untrusted import shown
from glmquant.errors import CheckpointError
from glmquant.store.adapter_config import ADAPTER_CONFIG, MERGE_FIRST, AdapterConfig
from glmquant.store.tensors import StoredTensor

WRAPPERS: Final = ("module.", "_orig_mod.", "base_model.model.")
LINEAR: Final = ("lora_A", "lora_B")
EMBEDDING: Final = ("lora_embedding_A", "lora_embedding_B")
MAGNITUDE: Final = "lora_magnitude_vector"
LONGEST_NAME: Final = 1000

_LORA: Final = re.compile(rf"(.+)\.({'|'.join((*LINEAR, *EMBEDDING, MAGNITUDE))})((?:\.\w[\w-]*){{0,2}})")
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
    def rank(self) -> int:
        return self.up.shape[0 if self.transposed else 1]


@dataclass
class AdapterTensors:
    """Tensors sorted by the module that they belong to and what they are of it.

    Attributes:
        file: what errors name.
        halves: of each module's addition, by ``lora_A`` and the like; ``lora_B.bias`` is an addition's bias.
        copies: what was trained as a whole, by tensor name (``lm_head.weight``).
    """

    file: Path
    halves: dict[str, dict[str, StoredTensor]] = field(default_factory=dict)
    copies: dict[str, StoredTensor] = field(default_factory=dict)

    def add(self, name: str, tensor: StoredTensor) -> None:
        """Raises CheckpointError for a tensor that is empty or not float, and for a second one in the same place."""
        if 0 in tensor.shape:
            raise CheckpointError(
                f"the tensor {shown(name)} is of shape {list(tensor.shape)}: a placeholder of DeepSpeed's ZeRO-3",
                where=self.file,
                expected="the gathered weights",
                hint="save the adapter with stage3_gather_16bit_weights_on_model_save, or make it of the training's "
                "checkpoint with DeepSpeed's zero_to_fp32.py",
            )
        short = _unwrapped(name)
        if not tensor.dtype.is_floating_point or len(short) > LONGEST_NAME:
            raise CheckpointError(
                f"the tensor {shown(name)} is {tensor.dtype}", where=self.file, expected="a float tensor of a module"
            )
        found = _LORA.fullmatch(short)
        if found is not None:
            role = f"{found[2]}.bias" if found[3].endswith(".bias") else found[2]
            self._put(self.halves.setdefault(found[1], {}), role, name, tensor)
        elif not _ORIGINAL.search(short):
            self._put(self.copies, _INSIDE.sub("", short), name, tensor)

    def _put(self, parts: dict[str, StoredTensor], role: str, name: str, tensor: StoredTensor) -> None:
        if role in parts:
            raise CheckpointError(
                f"the file holds both {shown(parts[role].name)} and {shown(name)}",
                where=self.file,
                expected="one adapter",
                hint="save one adapter in a directory: save_pretrained(…, selected_adapters=[…])",
            )
        parts[role] = tensor

    def additions(self, config: AdapterConfig) -> dict[str, LowRank]:
        """The additions by module.

        Raises:
            CheckpointError: a half without the other, or tensors that do not fit together or to the configuration.
        """
        weights = config.weights(self.halves)
        return {module: self._addition(module, *weights[module], config) for module in self.halves}

    def _addition(self, module: str, rank: int, scale: float, config: AdapterConfig) -> LowRank:
        parts = self.halves[module]
        transposed = not parts.keys().isdisjoint(EMBEDDING)
        first, second = EMBEDDING if transposed else LINEAR
        self._require_both(module, parts, first, second)
        bias = f"{second}.bias"
        if unknown := parts.keys() - {first, second, bias, MAGNITUDE}:
            raise self._error(f"{shown(module)} has {min(unknown)} beside {first}", "one addition a module")
        down, up = (parts[second], parts[first]) if transposed else (parts[first], parts[second])
        addition = LowRank(module, down, up, transposed, scale, parts.get(MAGNITUDE), parts.get(bias))
        self._check_rank(addition, down.shape[1 if transposed else 0], rank, config)
        self._check_magnitude(addition, config)
        return addition

    def _require_both(self, module: str, parts: Mapping[str, StoredTensor], first: str, second: str) -> None:
        for half in (first, second):
            if half not in parts:
                raise self._error(
                    f"{shown(module)} has {min(parts)} and no {half}",
                    f"both {first} and {second}",
                    "the file is incomplete: copy the adapter again, or give one of another checkpoint of its training",
                )
            if len(parts[half].shape) != 2:
                raise self._error(
                    f"the tensor {shown(parts[half].name)} is of shape {shown(list(parts[half].shape))}",
                    "a matrix: PEFT before 0.3 kept the parts of a fused layer in another form",
                    MERGE_FIRST,
                )

    def _check_rank(self, addition: LowRank, other: int, told: int, config: AdapterConfig) -> None:
        """The scale follows from the rank, so that a configuration of another rank is one of another training."""
        module, rank = shown(addition.module), addition.rank
        if rank != other or rank > max(addition.shape):
            raise self._error(
                f"the matrices of {module} are {list(addition.up.shape)} and {list(addition.down.shape)}",
                "one rank, and a low one",
            )
        if rank != told:
            raise CheckpointError(
                f"{module} is of rank {rank}, and {ADAPTER_CONFIG} says {told}",
                where=config.path,
                expected="the configuration that the adapter was trained with: the scale follows from the rank",
                hint=f"if lora_alpha is right, set r there to {rank}, or rank_pattern where ranks differ",
            )

    def _check_magnitude(self, addition: LowRank, config: AdapterConfig) -> None:
        magnitude, module = addition.magnitude, shown(addition.module)
        if (magnitude is not None) != config.weight_decomposed:
            raise CheckpointError(
                f"{module} has {'no' if magnitude is None else 'a'} {MAGNITUDE}, and use_dora is "
                f"{str(config.weight_decomposed).lower()}",
                where=config.path,
                expected="a magnitude for each module of a DoRA adapter, and none elsewhere",
                hint=f"set use_dora there to {str(magnitude is not None).lower()}, if it is wrong",
            )
        if magnitude is not None and addition.transposed:
            raise self._error(f"{module} is an embedding with DoRA", "DoRA of linear layers only", MERGE_FIRST)
        if magnitude is not None and magnitude.shape != addition.shape[:1]:
            raise self._error(
                f"the tensor {shown(magnitude.name)} is of shape {shown(list(magnitude.shape))}",
                f"{list(addition.shape[:1])}, a number a row",
            )

    def _error(self, what: str, expected: str, hint: str | None = None) -> CheckpointError:
        return CheckpointError(what, where=self.file, expected=expected, hint=hint)


def _unwrapped(name: str) -> str:
    while (wrapper := next((each for each in WRAPPERS if name.startswith(each)), None)) is not None:
        name = name.removeprefix(wrapper)
    return name
