"""Which files of a repository a checkpoint needs: never code, images, or the same weights in a second format."""

import os
import re
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from glmquant.core.untrusted import MAX_CONFIG_BYTES, MAX_INDEX_BYTES, read_json
from glmquant.core.weight_names import loose_weights
from glmquant.errors import CheckpointError

CONFIG: Final = "config.json"
TOKENIZERS: Final = ("tokenizer.json", "tokenizer.model")
BESIDE: Final = (
    CONFIG,
    "generation_config.json",
    "quantize_config.json",
    "glmquant.json",
    *TOKENIZERS,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
CARD: Final = "README.md"
"""The model card, for its license and languages."""

LICENSES: Final = ("LICENSE*", "MODEL_LICENSE*", "NOTICE*")
WEIGHTS: Final = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""In the order in which they are looked for in a directory, too."""

MOST_BYTES: Final = {name: MAX_INDEX_BYTES for name in WEIGHTS if name.endswith(".json")} | dict.fromkeys(
    TOKENIZERS, 64 << 20
)
"""Of files that are read whole; of others of :data:`BESIDE`, :data:`MAX_CONFIG_BYTES`."""

_SHARD: Final = re.compile(r"-\d+-of-\d+\.\w+")


def needed(names: Collection[str]) -> tuple[str, ...]:
    """Those of a repository's files that make a checkpoint, the small ones first; without weights where it has none."""
    beside = [name for name in BESIDE if name in names]
    more = sorted(name for name in names if name == CARD or _is_license(name) or _is_template(name))
    return (*beside, *more, *weights(names))


def weights(names: Collection[str]) -> tuple[str, ...]:
    """The weights among ``names``, safetensors before ``.bin``, an index before its shards; else those of any name."""
    first = next((name for name in WEIGHTS if name in names), None)
    if first is None:
        return tuple(loose_weights(sorted(name for name in names if "/" not in name)))
    if not first.endswith(".index.json"):
        return (first,)
    ending = Path(first.removesuffix(".index.json")).suffix
    alike = sorted(name for name in names if "/" not in name and name.endswith(ending))
    numbered = [name for name in alike if _SHARD.search(name)]
    return (first, *(numbered or alike))


def most_bytes(name: str) -> int | None:
    """How large a file may be; None for weights."""
    if name in BESIDE or name in MOST_BYTES or name == CARD or _is_license(name) or _is_template(name):
        return MOST_BYTES.get(name, MAX_CONFIG_BYTES)
    return None


def missing_parts(directory: Path) -> tuple[str, ...]:
    """What a directory lacks to be a checkpoint, as far as its own files tell."""
    missing = [] if (directory / CONFIG).exists() else [CONFIG]
    if not any((directory / name).exists() for name in TOKENIZERS):
        missing.append(" or ".join(TOKENIZERS))
    return (*missing, *_missing_weights(directory))


def _missing_weights(directory: Path) -> tuple[str, ...]:
    first = next((name for name in WEIGHTS if (directory / name).exists()), None)
    if first is None:
        return () if weights([path.name for path in directory.iterdir()]) else ("the weights",)
    if not first.endswith(".index.json"):
        return ()
    return tuple(sorted(name for name in _shards(directory / first) if not os.path.exists(directory / name)))


def _shards(index: Path) -> set[str]:
    """The file names in an index; none where it is damaged, which whoever opens the checkpoint will say."""
    try:
        weight_map = read_json(index, MAX_INDEX_BYTES).get("weight_map")
    except CheckpointError:
        return set()
    names = weight_map.values() if isinstance(weight_map, dict) else ()
    return {name for name in names if isinstance(name, str) and re.fullmatch(r"[\w.-]+", name)}


def _is_license(name: str) -> bool:
    return "/" not in name and any(fnmatchcase(name.upper(), pattern) for pattern in LICENSES)


def _is_template(name: str) -> bool:
    return re.fullmatch(r"additional_chat_templates/[^/]+\.jinja", name) is not None
