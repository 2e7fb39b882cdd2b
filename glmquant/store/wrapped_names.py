"""Tensor names as training frameworks write them, and the published names inside.

DistributedDataParallel, DeepSpeed, Lightning, ``torch.compile``, PEFT and TRL put a module of their own around a model,
and so a prefix before every name; ``model.transformer.state_dict()`` leaves the publisher's own away. The embedding,
which every model has once, tells which: what stands before its name must stand before all.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from glmquant.core.untrusted import shown
from glmquant.store.tensors import StoredTensor

log = logging.getLogger("glmquant.store")

INNER: Final = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""Wrappers around a part of a model: they may stand anywhere in a name."""

BESIDE: Final = ("lm_head.", "score.", "classifier_head.")
"""Modules beside the backbone, which have no part of its prefix."""

Stored = Mapping[str, StoredTensor]


def unwrapped(stored: Stored, embedding: str) -> dict[str, StoredTensor]:
    """The tensors under their published names, where a wrapper shared by all can be told; else as they are.

    Args:
        embedding: the embedding's published name, such as ``transformer.embedding.word_embeddings.weight``.
    """
    plain = {_without_inner(name): name for name in stored}
    if len(plain) < len(stored) or (embedding in stored and plain.keys() == stored.keys()):
        return dict(stored)
    root, _, tail = embedding.partition(".")
    candidates = [name for name in plain if f".{name}".endswith(f".{tail}")]
    if len(candidates) != 1:
        return dict(stored)
    outer, has_root = _outer(candidates[0].removesuffix(tail), f"{root}.")
    if not all(name.startswith(outer) for name in plain):
        return dict(stored)
    names = {name.removeprefix(outer): old for name, old in plain.items()}
    if not has_root:
        names = {name if name.startswith(BESIDE) else f"{root}.{name}": old for name, old in names.items()}
    _tell(next(iter(names.items())))
    return {name: replace(stored[old], name=name) for name, old in names.items()}


def _outer(prefix: str, root: str) -> tuple[str, bool]:
    """The wrappers in what stands before the embedding, and whether the backbone's own prefix stands there too."""
    has_root = f".{prefix}".endswith(f".{root}")
    return (prefix.removesuffix(root) if has_root else prefix), has_root


def _without_inner(name: str) -> str:
    for wrapper in INNER:
        name = name.replace(wrapper, "")
    return name


def _tell(example: tuple[str, str]) -> None:
    name, old = example
    log.warning(
        "the names of tensors are unwrapped: %s is read as %s, and the others likewise", shown(old), shown(name)
    )
