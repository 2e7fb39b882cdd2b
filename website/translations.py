"""A translation has the code of its original, block by block."""

import re
from typing import Final

BLOCK: Final = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
TRANSLATIONS: Final = {"README.zh.md": "README.md", "docs/index.zh.md": "docs/index.md"}
"""Original of each, from the root."""


def with_blocks_of(original: str, translation: str) -> str:
    """``translation`` with the code blocks of ``original`` in place of its own.

    Raises:
        ValueError: they have different numbers of blocks.
    """
    theirs = BLOCK.findall(original)
    count = len(BLOCK.findall(translation))
    if count != len(theirs):
        raise ValueError(f"the translation has {count} code blocks, its original {len(theirs)}: translate what is new")
    blocks = iter(theirs)
    return BLOCK.sub(lambda _: next(blocks), translation)
