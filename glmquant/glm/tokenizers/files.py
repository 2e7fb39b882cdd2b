"""The files a tokenizer comes in, read as hostile input, and those transformers loads it from."""

import json
from pathlib import Path
from typing import Any, Final

from glmquant.errors import CheckpointError

MOST_BYTES: Final = 64 << 20

TOKENIZER_JSON: Final = "tokenizer.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
SPECIAL_TOKENS_MAP: Final = "special_tokens_map.json"
TOKENIZER_MODEL: Final = "tokenizer.model"
TEMPLATE_FILE: Final = "chat_template.jinja"


def has_file(directory: Path, name: str) -> bool:
    return (directory / name).is_file()


def read_bytes(directory: Path, name: str) -> bytes:
    """A tokenizer file of ``directory``.

    Raises:
        CheckpointError: it is missing, lies outside the directory, is empty, or is larger than any tokenizer.
    """
    path = directory / name
    try:
        inside = path.resolve(strict=True).is_relative_to(directory.resolve())
        content = path.read_bytes() if inside and path.stat().st_size <= MOST_BYTES else None
    except OSError as error:
        raise CheckpointError(
            f"the tokenizer file cannot be read: {error.strerror or error}",
            where=path,
            expected=f"{name} beside config.json",
            hint="copy the publisher's tokenizer files into the checkpoint directory",
        ) from error
    if content is None:
        raise CheckpointError(
            "the tokenizer file leads out of the checkpoint directory"
            if not inside
            else "the tokenizer file is too large",
            where=path,
            expected=f"a file inside the directory of at most {MOST_BYTES >> 20} MB",
        )
    if not content:
        raise CheckpointError("the tokenizer file is empty", where=path, hint="fetch the file again")
    return content


def read_object(directory: Path, name: str) -> dict[str, Any]:
    """A JSON object of ``directory``; see :func:`read_bytes` for the errors."""
    try:
        values = json.loads(read_bytes(directory, name).decode())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the file is not JSON: {str(error)[:200]}", where=directory / name) from error
    if not isinstance(values, dict):
        raise CheckpointError(f"the JSON is a {type(values).__name__}", where=directory / name, expected="an object")
    return values


def shipped_template(directory: Path) -> str | None:
    """The chat template that comes with a checkpoint, in a file of its own or in ``tokenizer_config.json``."""
    if has_file(directory, TEMPLATE_FILE):
        return _text(directory, TEMPLATE_FILE)
    if not has_file(directory, TOKENIZER_CONFIG):
        return None
    template = read_object(directory, TOKENIZER_CONFIG).get("chat_template")
    if isinstance(template, list):
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise CheckpointError(
            f"chat_template is a {type(template).__name__}", where=directory / TOKENIZER_CONFIG, expected="a string"
        )
    return template


def declared_specials(directory: Path, first: int) -> tuple[str, ...] | None:
    """The special tokens ``tokenizer_config.json`` puts behind a vocabulary of ``first`` ids; None if it names none."""
    if not has_file(directory, TOKENIZER_CONFIG):
        return None
    declared = read_object(directory, TOKENIZER_CONFIG).get("added_tokens_decoder")
    if declared is None:
        return None
    entries = declared if isinstance(declared, dict) else {}
    found = [entries.get(str(first + place)) for place in range(len(entries))]
    tokens = tuple(str(token["content"]) for token in found if isinstance(token, dict) and token.get("content"))
    if not tokens or len(set(tokens)) != len(entries):
        raise CheckpointError(
            "the special tokens do not follow the vocabulary",
            where=f"{directory / TOKENIZER_CONFIG}, added_tokens_decoder",
            expected=f"ids from {first} on without a gap, each with a content of its own",
        )
    return tokens


def _text(directory: Path, name: str) -> str:
    try:
        return read_bytes(directory, name).decode()
    except UnicodeDecodeError as error:
        raise CheckpointError("the file is not UTF-8", where=directory / name) from error


def write_tokenizer_files(
    directory: Path,
    tokenizer_json: str,
    special_tokens: dict[str, str],
    chat_template: str | None,
    max_length: int,
) -> None:
    """Writes what ``AutoTokenizer`` of transformers 4.57 and 5.x loads without code from the directory.

    Args:
        directory: where to; exists.
        tokenizer_json: the content of ``tokenizer.json``.
        special_tokens: ``eos_token``, ``pad_token`` and the like to the token.
        chat_template: Jinja text; None for a tokenizer without one.
        max_length: the longest input the model takes, in tokens.
    """
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special_tokens,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": max_length,
        "padding_side": "left",
    }
    if chat_template is not None:
        config["chat_template"] = chat_template
    (directory / TOKENIZER_JSON).write_text(tokenizer_json, encoding="utf-8")
    for name, values in ((TOKENIZER_CONFIG, config), (SPECIAL_TOKENS_MAP, special_tokens)):
        (directory / name).write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
