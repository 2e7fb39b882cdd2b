"""Small checkpoints of every kind, the same bytes each time: the golden ones, the demo model's shape, the families.

python -m tests.same_bytes.models DIRECTORY
"""

import json
import shutil
import sys
from pathlib import Path

from glmquant import assets
from tests.glm.test_families import HUGGING_FACE, NATIVE
from tests.test_families import hugging_face, native

GOLDEN = ("chatglm2-tiny", "chatglm3-tiny")
FAMILIES = {
    "chatglm2-32k": "THUDM/chatglm2-6b-32k",
    "chatglm2-int4": "THUDM/chatglm2-6b-int4",
    "codegeex2": "THUDM/codegeex2-6b",
    "glm-4-chat": "THUDM/glm-4-9b-chat",
    "glm-edge": "glm-edge",
    "glm-4-0414": "GLM-4-9B-0414",
}
RELEASES = {release.name: (native, release) for release in NATIVE} | {
    release.name: (hugging_face, release) for release in HUGGING_FACE
}


def write_models(directory: Path) -> None:
    directory.mkdir(parents=True)
    for name in GOLDEN:
        source = Path(__file__).parents[1] / "golden" / name
        shutil.copytree(source, directory / name, ignore=shutil.ignore_patterns("expected*"))
    shutil.copytree(assets.DEMO_MODEL, directory / "demo-model")
    for name, release in FAMILIES.items():
        write, found = next(each for known, each in RELEASES.items() if release in known)
        (directory / name / "model").mkdir(parents=True)
        write(found, directory / name / "model")
        _lift(directory / name)
    reviews = (assets.DIRECTORY / "reviews.jsonl").read_text(encoding="utf-8").splitlines()[:60]
    (directory / "labeled.jsonl").write_text("\n".join(reviews) + "\n", encoding="utf-8")


def _lift(directory: Path) -> None:
    """The model out of its scratch folder."""
    for path in (directory / "model").iterdir():
        shutil.move(str(path), directory / path.name)
    (directory / "model").rmdir()
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    config["max_position_embeddings" if "max_position_embeddings" in config else "seq_length"] = 128
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.rmtree(directory / "tokenizer", ignore_errors=True)


if __name__ == "__main__":
    write_models(Path(sys.argv[1]))
