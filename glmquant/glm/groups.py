"""The linear groups of a model, as the parts of its blocks declare them."""

from collections.abc import Iterable
from dataclasses import dataclass

from glmquant.core.spec import QuantSpec
from glmquant.glm.config import GlmConfig, LinearGroup
from glmquant.glm.parts import PartKind, SparseKind, part_kinds


@dataclass(frozen=True)
class Unit:
    """What a recipe's rule matches and a plan has one spec for: a linear group, or all routed experts of a layer."""

    name: str
    groups: tuple[LinearGroup, ...]

    @property
    def num_weights(self) -> int:
        return sum(group.num_weights for group in self.groups)

    @property
    def is_experts(self) -> bool:
        """Routed experts, rather than a single linear group."""
        return self.groups[0].shared_unit is not None

    @property
    def columns(self) -> int:
        """Of what it reads."""
        return self.groups[0].columns

    def stored_bytes(self, spec: QuantSpec) -> int:
        """Of codes, scales and zero points."""
        return sum(group.stored_bytes(spec) for group in self.groups)


def units(groups: Iterable[LinearGroup]) -> tuple[Unit, ...]:
    """The units that linear groups belong to, in the order of their first ones."""
    members: dict[str, list[LinearGroup]] = {}
    for group in groups:
        members.setdefault(group.unit, []).append(group)
    return tuple(Unit(name, tuple(each)) for name, each in members.items())


def block_groups(config: GlmConfig, layer: int) -> tuple[LinearGroup, ...]:
    """The linear groups of a block, in the order data flows through them; routed experts after what is beside them."""
    return tuple(group for kind in part_kinds(config, layer) for group in part_groups(config, kind, layer))


def part_groups(config: GlmConfig, kind: PartKind, layer: int) -> tuple[LinearGroup, ...]:
    """The linear groups of a part, those of its routed experts last."""
    chain = kind.groups(config, layer)
    if not isinstance(kind, SparseKind) or config.experts is None:
        return chain
    pairs = (kind.expert_groups(config, layer, expert) for expert in range(config.experts.count))
    return (*chain, *(group for pair in pairs for group in pair))


def head_group(config: GlmConfig) -> LinearGroup:
    """The group of ``lm_head``."""
    return LinearGroup("lm_head", ("lm_head",), (config.vocab_size,), config.hidden_size)


def linear_groups(config: GlmConfig) -> tuple[LinearGroup, ...]:
    """Every linear group of the model, blocks first, ``lm_head`` last; a classifier has no ``lm_head``."""
    blocks = [group for layer in range(config.num_hidden_layers) for group in block_groups(config, layer)]
    return tuple(blocks) if config.num_labels else (*blocks, head_group(config))
