"""The files a tokenizer comes in, read as hostile input, and those transformers loads it from."""

import os
from pathlib import Path
from typing import Any, Final

from glmquant.core import untrusted
from glmquant.core.files import write_json, write_text
from glmquant.errors import CheckpointError

MOST_BYTES: Final = 64 << 20

TOKENIZER_JSON: Final = "tokenizer.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
SPECIAL_TOKENS_MAP: Final = "special_tokens_map.json"
TOKENIZER_MODEL: Final = "tokenizer.model"
TEMPLATE_FILE: Final = "chat_template.jinja"


def has_file(directory: Path, name: str) -> bool:
    """Whether anything has that name: what is no regular file is refused on reading, not passed over."""
    return os.path.lexists(directory / name)


def read_bytes(directory: Path, name: str) -> bytes:
    """A tokenizer file of ``directory``.

    Raises:
        CheckpointError: it is missing, no regular file, lies outside the directory, is empty, or is larger than any
            tokenizer.
    """
    hint = "copy the publisher's tokenizer files into the checkpoint directory"
    path = untrusted.file_inside(directory, name, where=directory / name, hint=hint)
    content = untrusted.read_bytes(path, MOST_BYTES)
    if not content:
        raise CheckpointError("the tokenizer file is empty", where=path, hint="fetch the file again")
    return content


def read_object(directory: Path, name: str) -> dict[str, Any]:
    """A JSON object of ``directory``.

    Raises:
        CheckpointError: as :func:`read_bytes` and :func:`glmquant.core.untrusted.parse_json`.
    """
    return untrusted.parse_json(read_bytes(directory, name), directory / name)


def shipped_template(directory: Path) -> str | None:
    """The chat template that comes with a checkpoint, in a file of its own or in ``tokenizer_config.json``."""
    if has_file(directory, TEMPLATE_FILE):
        return untrusted.parse_text(read_bytes(directory, TEMPLATE_FILE), directory / TEMPLATE_FILE)
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
    write_text(directory / TOKENIZER_JSON, tokenizer_json)
    write_json(directory / TOKENIZER_CONFIG, config)
    write_json(directory / SPECIAL_TOKENS_MAP, special_tokens)
