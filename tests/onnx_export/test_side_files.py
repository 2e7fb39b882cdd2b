from dataclasses import replace
from pathlib import Path

import pytest

from glmquant.glm.tokenizers.tokenizer import load_tokenizer
from glmquant.onnx_export.save import tell_of_length
from glmquant.onnx_export.side_files import genai_config, keep_text_whole, optimum_config
from glmquant.recipe.schema import ExportOptions
from tests.support.models import GOLDEN, TINY, TINY_GLM4, golden_source


def test_genai_config_names_the_graph() -> None:
    config = genai_config(replace(TINY, eos_token_ids=(2, 7)), ExportOptions(), 64)
    model, decoder = config["model"], config["model"]["decoder"]
    assert model["type"] == "chatglm"
    assert (model["eos_token_id"], model["pad_token_id"], model["bos_token_id"]) == ([2, 7], 0, 1)
    assert (model["context_length"], config["search"]["max_length"]) == (64, 64)
    assert (decoder["num_key_value_heads"], decoder["head_size"], decoder["num_hidden_layers"]) == (1, 32, 2)
    assert decoder["inputs"]["past_key_names"] == "past_key_values.%d.key"
    assert "position_ids" not in decoder["inputs"]
    assert decoder["filename"] == "genai.onnx"
    assert config["search"]["past_present_share_buffer"] is True


def test_genai_config_of_the_standard_profile() -> None:
    config = genai_config(TINY, ExportOptions(profile="standard", accuracy_level=0), 64)
    options = config["model"]["decoder"]["session_options"]
    assert options["session.qdq_matmulnbits_accuracy_level"] == "0"
    assert config["search"]["past_present_share_buffer"] is False


def test_a_length_beyond_the_models_is_told(caplog: pytest.LogCaptureFixture) -> None:
    tell_of_length(TINY, ExportOptions(max_length=10**6))
    tell_of_length(TINY, ExportOptions())
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        f"export.max_length is 1000000, and the model was made for {TINY.max_position_embeddings} tokens"
    ]


def test_a_model_without_bos_says_none() -> None:
    assert "bos_token_id" not in genai_config(replace(TINY, bos_token_id=None), ExportOptions(), 64)["model"]


def test_config_is_a_glm_to_optimum() -> None:
    config = optimum_config(TINY_GLM4)
    assert config["model_type"] == "glm"
    assert config["num_key_value_heads"] == 1


@pytest.mark.parametrize(("name", "warns"), [("chatglm2-tiny", False), ("chatglm3-tiny", True)])
def test_normalization_that_genai_leaves_out_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, warns: bool
) -> None:
    load_tokenizer(GOLDEN / name, golden_source(name).config).save(tmp_path)
    keep_text_whole(tmp_path / "tokenizer.json")
    assert ("does not normalize Unicode" in caplog.text) == warns
