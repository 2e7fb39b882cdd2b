"""The files a tokenizer comes in, read as hostile input, and those transformers loads it from."""

import os
from pathlib import Path
from typing import Any, Final

from glmquant.core import untrusted
from glmquant.core.files import write_json, write_text
from glmquant.core.placeholders import HEAD, fetch_again, refuse_packed, refuse_placeholder
from glmquant.errors import CheckpointError

TEXT: Final = (".json", ".jinja", ".txt")
"""Endings of files that may start with an encoding's mark."""
MOST_BYTES: Final = 64 << 20

TOKENIZER_JSON: Final = "tokenizer.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
SPECIAL_TOKENS_MAP: Final = "special_tokens_map.json"
TOKENIZER_MODEL: Final = "tokenizer.model"
ADDED_TOKENS: Final = "added_tokens.json"
TEMPLATE_FILE: Final = "chat_template.jinja"
TEMPLATE_JSON: Final = "chat_template.json"
TEMPLATE_DIRECTORY: Final = "additional_chat_templates"


def has_file(directory: Path, name: str) -> bool:
    """Whether anything has that name: what is no regular file is refused on reading, not passed over."""
    return os.path.lexists(directory / name)


def read_bytes(directory: Path, name: str) -> bytes:
    """A tokenizer file of ``directory``.

    Raises:
        CheckpointError: it is missing, no regular file, lies outside the directory, is empty, is larger than any
            tokenizer, or is what a failed download left in its place; or text that is not in the encoding of its mark.
    """
    hint = "copy the publisher's tokenizer files into the checkpoint directory"
    path = untrusted.file_inside(directory, name, where=directory / name, hint=hint)
    content = untrusted.read_bytes(path, MOST_BYTES)
    if not content:
        raise CheckpointError("the tokenizer file is empty", where=path, hint=fetch_again(directory / name))
    refuse_placeholder(content[:HEAD], directory / name)
    refuse_packed(content, directory / name)
    return untrusted.without_mark(content, directory / name) if name.endswith(TEXT) else content


def read_object(directory: Path, name: str) -> dict[str, Any]:
    """A JSON object of ``directory``.

    Raises:
        CheckpointError: as :func:`read_bytes` and :func:`glmquant.core.untrusted.parse_json`.
    """
    return parse_object(read_bytes(directory, name), directory, name)


def parse_object(content: bytes, directory: Path, name: str) -> dict[str, Any]:
    """As :func:`read_object`, of bytes that were read."""
    try:
        return untrusted.parse_json(content, directory / name)
    except CheckpointError as error:
        hint = f"{error.hint or 'mend it'}, or {fetch_again(directory / name)}"
        raise CheckpointError(error.what, where=error.where, expected=error.expected, hint=hint) from error


def write_tokenizer_files(
    directory: Path,
    tokenizer_json: str,
    special_tokens: dict[str, str],
    chat_template: str | None,
    other_templates: dict[str, str],
    max_length: int,
) -> None:
    """Writes what ``AutoTokenizer`` of transformers 4.57 and 5.x loads without code from the directory.

    Args:
        directory: where to; exists.
        tokenizer_json: the content of ``tokenizer.json``.
        special_tokens: ``eos_token``, ``pad_token`` and the like to the token.
        chat_template: Jinja text; None for a tokenizer without one.
        other_templates: by name, for other occasions. transformers then wants all of them in files of their own.
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
    if chat_template is not None and other_templates:
        write_text(directory / TEMPLATE_FILE, chat_template)
        (directory / TEMPLATE_DIRECTORY).mkdir(exist_ok=True)
        for name, template in other_templates.items():
            write_text(directory / TEMPLATE_DIRECTORY / f"{name}.jinja", template)
