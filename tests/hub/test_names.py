"""What can be an id, and what can only be a path."""

import pytest

from glmquant.errors import CheckpointError
from glmquant.hub.locate import locate
from glmquant.hub.names import RepoId, id_of_page, parse_id


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("THUDM/chatglm2-6b", RepoId("THUDM/chatglm2-6b")),
        ("zai-org/GLM-4.5-Air", RepoId("zai-org/GLM-4.5-Air")),
        ("a/b_c", RepoId("a/b_c")),
        ("THUDM/chatglm2-6b@main", RepoId("THUDM/chatglm2-6b", "main")),
        ("THUDM/chatglm2-6b@v1.0", RepoId("THUDM/chatglm2-6b", "v1.0")),
        ("THUDM/chatglm2-6b@refs/pr/4", RepoId("THUDM/chatglm2-6b", "refs/pr/4")),
    ],
)
def test_an_id_is_read(text: str, expected: RepoId) -> None:
    assert parse_id(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        "chatglm2-6b",
        "./chatglm2-6b",
        "./THUDM/chatglm2-6b",
        "../THUDM/chatglm2-6b",
        "/THUDM/chatglm2-6b",
        "THUDM/chatglm2-6b/",
        "THUDM//chatglm2-6b",
        "models/THUDM/chatglm2-6b",
        "~/chatglm2-6b",
        "THUDM\\chatglm2-6b",
        "C:/chatglm2-6b",
        "https://huggingface.co/THUDM/chatglm2-6b",
        "a/..",
        "a--b/c",
        "a/b.git",
        "a/b@",
        "a/b@-x",
        "a/b@../../x",
        "a/b@c@d",
        "a/b@/etc",
        "模型/chatglm2",
        "a/b\n",
        "a/b c",
        f"a/{'b' * 96}",
        "",
    ],
)
def test_what_can_only_be_a_path(text: str) -> None:
    assert parse_id(text) is None


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://huggingface.co/THUDM/chatglm2-6b", "THUDM/chatglm2-6b"),
        ("https://huggingface.co/THUDM/chatglm2-6b.git", "THUDM/chatglm2-6b"),
        ("https://huggingface.co/THUDM/chatglm2-6b/tree/main", "THUDM/chatglm2-6b"),
        ("http://hf-mirror.com/THUDM/chatglm2-6b/blob/v1.0/config.json", "THUDM/chatglm2-6b@v1.0"),
        ("huggingface.co/THUDM/chatglm2-6b?x=1", "THUDM/chatglm2-6b"),
        ("https://www.modelscope.cn/models/ZhipuAI/glm-4-9b-chat/files", "ZhipuAI/glm-4-9b-chat"),
        ("https://example.com/THUDM/chatglm2-6b", None),
        ("https://huggingface.co/THUDM", None),
        ("THUDM/chatglm2-6b", None),
    ],
)
def test_the_id_of_a_page_on_the_hub(address: str, expected: str | None) -> None:
    found = id_of_page(address)
    assert (None if found is None else str(found)) == expected


def test_an_address_in_place_of_an_id_is_told_with_the_id() -> None:
    with pytest.raises(CheckpointError, match="address on the web") as error:
        locate("https://huggingface.co/THUDM/chatglm2-6b/tree/main")
    assert error.value.hint == "give its id: THUDM/chatglm2-6b"
