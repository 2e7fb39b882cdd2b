"""JSON files that carry a hash of themselves, so that one that is no longer what was written says so.

The hash stands in the first line, over all other lines: without that line the file is the same JSON, unsealed.
"""

import hashlib
import re
from pathlib import Path
from typing import Any, Final

from glmquant.core.placeholders import HEAD, refuse_placeholder
from glmquant.core.untrusted import MAX_CONFIG_BYTES, parse_json, read_bytes, without_mark
from glmquant.errors import CheckpointError

SEAL: Final = "sha256"
_OPENING: Final = b"{\n"
_SEALED: Final = re.compile(rb'\{\n +"sha256": "([0-9a-f]{64})",\n')


def sealed(text: bytes) -> bytes:
    """An indented JSON object, as ``json.dumps`` writes one, with its hash."""
    assert text.startswith(_OPENING), "an object with a key, indented"
    body = text.removeprefix(_OPENING)
    return b'{\n "sha256": "%s",\n%s' % (hashlib.sha256(body).hexdigest().encode(), body)


def read_sealed(path: Path, limit: int = MAX_CONFIG_BYTES) -> tuple[dict[str, Any], bool]:
    """The object without its hash, and whether it had one.

    Raises:
        CheckpointError: as :func:`glmquant.core.untrusted.read_json` does, or the hash is another's.
    """
    raw = read_bytes(path, limit)
    refuse_placeholder(raw[:HEAD], path)
    values = parse_json(without_mark(raw, path), path)
    if SEAL not in values:
        return values, False
    seal = _SEALED.match(raw)
    if seal is None or hashlib.sha256(raw[seal.end() :]).hexdigest() != seal[1].decode():
        raise CheckpointError(
            f"{path.name} was changed since it was written",
            where=path,
            expected="the bytes whose sha256 its first line has",
            hint="copy the directory again; if the change is yours, remove that line",
        )
    del values[SEAL]
    return values, True
