"""What about an adapter is worth a look, though nothing stands in its way."""

from pathlib import Path, PurePosixPath
from typing import Any, Final

from glmquant.core.untrusted import file_inside, read_bytes, shown
from glmquant.errors import CheckpointError
from glmquant.store.adapter import Adapter
from glmquant.store.adapter_config import USUAL_ALPHA

TEXT_FILES: Final = ("tokenizer.model", "tokenizer.json", "added_tokens.json", "chat_template.jinja")
LARGEST_TEXT_FILE: Final = 64 << 20
NO_ALPHA: Final = f"the adapter names no lora_alpha: PEFT's default, {USUAL_ALPHA:g}, decides how much it counts"
CACHED: Final = "models--"
SET_BY_PEFT: Final = {"classifier", "score"}
"""``modules_to_save`` that PEFT adds for every classifier; a model has one of them at most."""


def adapter_notes(adapter: Adapter, base: Path, config: dict[str, Any]) -> tuple[str, ...]:
    """A sentence each.

    Args:
        base: the directory of the model that it is merged into.
        config: that model's ``config.json``.
    """
    alpha = () if adapter.config.tells_alpha else (NO_ALPHA,)
    missing = (*alpha, *_nothing_added(adapter), *_without_tensors(adapter))
    return (*missing, *_other_base(adapter, base, config), *_other_text_files(adapter, base))


def _other_base(adapter: Adapter, base: Path, config: dict[str, Any]) -> list[str]:
    told = _model_name(adapter.config.base or "")
    known = {_model_name(str(base)), _model_name(str(config.get("_name_or_path") or ""))}
    if not told or told in known:
        return []
    return [
        f"the adapter says that it was trained on {shown(adapter.config.base)}, and this model is {shown(base.name)}: "
        "the shapes agree, see that the models do"
    ]


def _nothing_added(adapter: Adapter) -> list[str]:
    """The second matrices start at zero; the first that does not end there settles it."""
    if not adapter.additions or any(bool(each.up.read().any()) for each in adapter.additions.values()):
        return []
    return ["the adapter's lora_B are zero, as they are before training: it adds nothing"]


def _model_name(path: str) -> str:
    """``chatglm2-6b`` of a hub's id, of a directory, and of a snapshot in the hub's cache."""
    parts = PurePosixPath(path.replace("\\", "/")).parts
    cached = [part.rpartition("--")[2] for part in parts if part.startswith(CACHED)]
    return (cached[-1] if cached else parts[-1] if parts else "").lower()


def _without_tensors(adapter: Adapter) -> list[str]:
    modules = {*adapter.additions, *(name.rpartition(".")[0] for name in adapter.copies)}
    found = {name.rpartition(".")[2] for name in modules}
    saved = set(adapter.config.saved)
    if saved & found & SET_BY_PEFT:
        saved -= SET_BY_PEFT
    asked = {"target_modules": adapter.config.targets, "modules_to_save": sorted(saved)}
    return [
        f"the adapter's {field} names {shown(name)}, for which it holds no tensors"
        for field, names in asked.items()
        for name in names
        if not any(f".{module}".endswith(f".{name}") for module in modules)
    ]


def _other_text_files(adapter: Adapter, base: Path) -> list[str]:
    other = [name for name in TEXT_FILES if _differs(adapter.path / name, base / name)]
    if not other:
        return []
    return [f"the model's tokenizer and chat template are used, not the adapter's {', '.join(other)}, which differs"]


def _differs(own: Path, of_base: Path) -> bool:
    if not own.exists():
        return False
    try:
        return _content(own) != _content(of_base)
    except CheckpointError:
        return True


def _content(path: Path) -> bytes:
    return read_bytes(file_inside(path.parent, path.name, where=path), LARGEST_TEXT_FILE)
