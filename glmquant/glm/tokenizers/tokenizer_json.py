"""``tokenizer.json``: the ``tokenizers`` library's own file, from a directory that nobody vouches for."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenizers import Tokenizer

from glmquant.core.placeholders import fetch_again
from glmquant.errors import CheckpointError, GlmQuantError
from glmquant.glm.tokenizers.files import TOKENIZER_JSON, parse_object, read_bytes
from glmquant.glm.tokenizers.steps import require_bounded_steps


def json_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer in ``tokenizer.json``.

    Raises:
        CheckpointError: it is missing or damaged, has a step that is not bounded, or fails on the simplest text.
    """
    content = read_bytes(directory, TOKENIZER_JSON)
    with failures_named(directory / TOKENIZER_JSON):
        # tokenizers panics on a damaged step, or never ends, on loading or much later.
        values = parse_object(content, directory, TOKENIZER_JSON)
        require_bounded_steps(values, directory / TOKENIZER_JSON)
        tokenizer = Tokenizer.from_buffer(content)
        tokenizer.no_padding()
        tokenizer.no_truncation()
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
