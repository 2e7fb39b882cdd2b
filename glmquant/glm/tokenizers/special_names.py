"""Which token is ``eos_token`` and the like, as the files beside the tokenizer name them."""

from pathlib import Path
from typing import Any, Final

from glmquant.core.untrusted import shown
from glmquant.errors import CheckpointError
from glmquant.glm.tokenizers.files import SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG, has_file, read_object

NAMES: Final = ("bos_token", "eos_token")
"""Those that a chat template may name and that decide something; the pad token is config.json's."""


def named_tokens(directory: Path) -> dict[str, str]:
    """The text of each of ``NAMES`` that a file names.

    Raises:
        CheckpointError: a damaged file, or two that name different tokens.
    """
    found: dict[str, tuple[str, Path]] = {}
    for file in (TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP):
        values = read_object(directory, file) if has_file(directory, file) else {}
        for name in NAMES:
            text = _text(values.get(name), name, directory / file)
            if text is None:
                continue
            other, place = found.setdefault(name, (text, directory / file))
            if other != text:
                raise CheckpointError(
                    f"two files name different tokens {name}: {shown(other)} and {shown(text)}",
                    where=f"{place}, and {directory / file}",
                    expected="one",
                    hint=f"remove {name} from the file that is wrong; both belong to one saved tokenizer",
                )
    return {name: text for name, (text, _) in found.items()}


def _text(value: Any, name: str, path: Path) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    if text is None or text == "":
        return None
    if not isinstance(text, str):
        raise CheckpointError(f"{name} is a {type(text).__name__}", where=f"{path}, {name}", expected="a token's text")
    return text
