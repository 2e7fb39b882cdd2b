"""What can be an id, and what can only be a path."""

import pytest

from glmquant.hub.names import RepoId, parse_id


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
