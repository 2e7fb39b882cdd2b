"""How long lines are shown."""

import pytest

from glmquant.cli.printing import folded


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("as it is", "as it is"),
        ("a  table's row", "a  table's\n    row"),
        ("  indented and long", "  indented\n      and\n      long"),
        ("你好 世界 wide", "你好 世界\n    wide"),
        ("a_word_longer_than_all of it", "a_word_longer_than_all\n    of it"),
        ("", ""),
    ],
)
def test_a_line_breaks_between_words(line: str, shown: str) -> None:
    assert folded(line, 10) == shown
