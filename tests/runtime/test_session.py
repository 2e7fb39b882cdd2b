import json

import onnxruntime as ort
import pytest

from glmquant.errors import ExportError
from glmquant.onnx_export.save import export_bundle
from glmquant.recipe.schema import ExportOptions
from glmquant.runtime.model import OnnxModel
from glmquant.runtime.session import read_settings
from tests.support.models import random_source


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="CUDA is here")
def test_a_missing_provider_is_an_error_before_anything_is_read(tmp_path) -> None:
    with pytest.raises(ExportError, match=r"provider cuda is not available.*\n.*where: provider") as caught:
        OnnxModel.open(tmp_path / "nothing", provider="cuda")
    assert "onnxruntime-gpu" in str(caught.value)


def test_settings_carry_the_sessions_entries(tmp_path) -> None:
    export_bundle(random_source(), ExportOptions(profile="standard", accuracy_level=1), tmp_path)
    settings = read_settings(tmp_path)
    assert settings.entries["session.qdq_matmulnbits_accuracy_level"] == "1"
    assert (settings.eos_ids, settings.pad_id) == ((2,), 0)


@pytest.mark.parametrize(
    "name", ["session.model_external_initializers_file_folder_path", "session.optimized_model_filepath"]
)
def test_an_entry_that_names_a_file_is_refused(tmp_path, name: str) -> None:
    """It would send ONNX Runtime out of the bundle's directory."""
    export_bundle(random_source(), ExportOptions(), tmp_path)
    settings = json.loads((tmp_path / "genai_config.json").read_text())
    settings["model"]["decoder"]["session_options"][name] = "/etc"
    (tmp_path / "genai_config.json").write_text(json.dumps(settings))
    with pytest.raises(ExportError, match="names a file"):
        read_settings(tmp_path)
