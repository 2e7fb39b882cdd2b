"""docs/serve.md, as a user follows it; at another port, which is free."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import glmquant as gq
from glmquant import assets
from glmquant.serve import body, request
from tests.support.served import served

DOCUMENT = (Path(__file__).parents[1] / "docs" / "serve.md").read_text(encoding="utf-8")
START, CURL = re.findall(r"^```bash\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
(CLIENT,) = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:8000"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_it_is_started_and_answers_curl_and_the_client(tmp_path: Path) -> None:
    bundle = gq.export(assets.DEMO_MODEL, out=tmp_path / "out" / "onnx").path
    assert shlex.split(START) == ["glmquant", "serve", "out/onnx"]
    said = "".join(gq.generate(bundle, "A file is", options=gq.GenerationOptions(16)))
    with served(bundle, tmp_path, "--port", 0) as server:
        for command in (["sh", "-ec", CURL], [sys.executable, "-c", CLIENT]):
            assert ADDRESS in command[-1]
            command[-1] = command[-1].replace(ADDRESS, server.url)
            done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
            assert said in done.stdout


def test_the_limits_are_those_of_the_code() -> None:
    assert f"up to {request.MOST_STOPS};" in DOCUMENT
    assert f"at most {body.MOST_BYTES >> 20} MiB" in DOCUMENT
