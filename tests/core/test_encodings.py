import pytest

from glmquant.core.encodings import known_encoding


@pytest.mark.parametrize(("given", "name"), [("UTF8", "utf-8"), ("gbk", "gbk"), ("GB18030", "gb18030")])
def test_an_encoding_has_one_name(given: str, name: str) -> None:
    assert known_encoding(given) == name


@pytest.mark.parametrize("given", ["", "nonsense", "hex", "base64", "idna", "IDNA", "punycode", "undefined", "x" * 999])
def test_what_reads_no_file_is_no_encoding(given: str) -> None:
    with pytest.raises(ValueError, match="no encoding"):
        known_encoding(given)
