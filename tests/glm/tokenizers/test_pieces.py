import pytest

from glmquant.glm.tokenizers.pieces import byte_letters, spelled

LETTERS = byte_letters()


def piece(data: bytes) -> str:
    return "".join(LETTERS[byte] for byte in data)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("<0xE7>", "<0xE7>"),
        (piece(b" a"), " a"),
        (piece("好".encode()), "好"),
        (piece("好".encode()[:2]), "<0xE5><0xA5>"),
        (piece(b" \xe4"), " <0xE4>"),
        ("▁好", None),
    ],
)
def test_bytes_are_shown_as_bytes(given: str, shown: str | None) -> None:
    assert spelled(given) == shown
