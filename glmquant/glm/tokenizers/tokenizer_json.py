"""``tokenizer.json``: the ``tokenizers`` library's own file, from a directory that nobody vouches for."""

import base64
import binascii
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from glmquant.core.placeholders import fetch_again
from glmquant.core.untrusted import parse_json
from glmquant.errors import CheckpointError, GlmQuantError
from glmquant.glm.tokenizers.charsmap import read_charsmap
from glmquant.glm.tokenizers.files import TOKENIZER_JSON, read_bytes


def json_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer in ``tokenizer.json``.

    Raises:
        CheckpointError: it is missing, damaged, or fails on the simplest text.
    """
    content = read_bytes(directory, TOKENIZER_JSON)
    with failures_named(directory / TOKENIZER_JSON):
        # tokenizers panics on a damaged rule, on loading or much later.
        if b'"Precompiled"' in content:
            _check_rules(parse_json(content, directory / TOKENIZER_JSON).get("normalizer"))
        tokenizer = Tokenizer.from_buffer(content)
        tokenizer.encode("a")
        return tokenizer


@contextmanager
def failures_named(path: Path) -> Iterator[None]:
    """Turns whatever ``tokenizers`` raises on a damaged tokenizer, a panic included, into one clear error."""
    try:
        yield
    except (GlmQuantError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic is no Exception, and tokenizers raises nothing narrower
        raise CheckpointError(
            f"the tokenizer cannot be used: {str(error)[:200]}",
            where=path,
            expected="a tokenizer as the tokenizers library writes it",
            hint=fetch_again(path),
        ) from error


def _check_rules(normalizer: Any) -> None:
    if not isinstance(normalizer, dict):
        return
    for step in normalizer.get("normalizers", []):
        _check_rules(step)
    if normalizer.get("type") == "Precompiled":
        try:
            charsmap = base64.b64decode(normalizer["precompiled_charsmap"], validate=True)
        except (KeyError, TypeError, binascii.Error) as error:
            raise CheckpointError("the tokenizer's normalization rule is not base64", where=TOKENIZER_JSON) from error
        read_charsmap(charsmap)
