"""Valid inputs of every kind, each with what glmquant does with it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from glmquant.core.spec import QuantSpec
from glmquant.glm.config import GlmConfig
from glmquant.glm.tokenizers.chat import TEMPLATES, Message
from glmquant.glm.tokenizers.tokenizer import load_tokenizer
from glmquant.onnx_export.save import export_bundle
from glmquant.quantization.quantize import quantize
from glmquant.quantization.summary import summarize
from glmquant.recipe.load import load_recipe
from glmquant.recipe.packaged import packaged_recipes
from glmquant.recipe.plan import make_plan
from glmquant.recipe.schema import ExportOptions, Recipe
from glmquant.store.calibration import read_calibration, write_calibration
from glmquant.store.checkpoint import open_checkpoint
from tests.store.test_artifact import plan_of, write_all
from tests.store.test_calibration import calibration
from tests.store.test_quantized_checkpoints import gptq, published, row_quantized, shuffled, write
from tests.support.checkpoints import float_tensors, tiny_config, write_checkpoint, write_config
from tests.support.glm4 import write_tokenizer
from tests.support.golden import config as golden_config
from tests.support.golden import directory as golden
from tests.support.golden import tokenizer as golden_tokenizer

ROUNDED = Recipe.model_validate({"version": 1, "rules": [{"match": "*", "spec": {"bits": 8, "group_size": 32}}]})


@dataclass(frozen=True)
class Subject:
    """A directory, the files of it to damage, and what is done with it; ``scratch`` is an empty directory."""

    name: str
    files: tuple[str, ...]
    use: Callable[[Path, Path], object]


def read_all(directory: Path, _: Path) -> None:
    checkpoint = open_checkpoint(directory)
    summarize(checkpoint, make_plan(ROUNDED, checkpoint.config))
    _ = checkpoint.fingerprint
    checkpoint.embedding()
    for layer in range(checkpoint.config.num_hidden_layers):
        checkpoint.block(layer).floating()
    checkpoint.final_norm()
    checkpoint.classification_head() if checkpoint.config.num_labels else checkpoint.lm_head()


def export_fused(directory: Path, scratch: Path) -> None:
    export_bundle(open_checkpoint(directory), ExportOptions(max_length=64), scratch)


def export_standard(directory: Path, scratch: Path) -> None:
    export_bundle(open_checkpoint(directory), ExportOptions(profile="standard", max_length=64), scratch)


def read_and_quantize(directory: Path, scratch: Path) -> None:
    checkpoint = open_checkpoint(directory)
    quantize(checkpoint, make_plan(ROUNDED, checkpoint.config), None, scratch)


def use_tokenizer(config: GlmConfig) -> Callable[[Path, Path], None]:
    def use(directory: Path, scratch: Path) -> None:
        tokenizer = load_tokenizer(directory, config)
        tokenizer.decode(tokenizer.encode("你好，Hello  world 👩🏽‍🔬 <|user|>\n\t12345"))
        if tokenizer.chat_template is not None:
            tokenizer.apply_chat_template([Message("user", "你好")])
        tokenizer.save(scratch)

    return use


def use_recipe(directory: Path, _: Path) -> None:
    recipe = load_recipe(directory / "recipe.yaml")
    make_plan(recipe, tiny_config())
    recipe.identity()


def build(root: Path) -> list[Subject]:
    """Writes every subject into a directory of its name under ``root``."""
    return [*_checkpoints(root), *_tokenizers(root), *_others(root)]


def _checkpoints(root: Path) -> list[Subject]:
    shutil.copytree(golden("chatglm2-tiny"), root / "native-bin")
    weights = [path.name for path in (root / "native-bin").glob("pytorch_model*")]
    write(root / "native-int4", row_quantized(published(), 4), quantization_bit=4)
    section = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True}
    words = gptq(published(), QuantSpec(4, 32, symmetric=False), "gptq", shuffled)
    write(root / "gptq-native", words, quantization_config=section)
    config = tiny_config()
    write_checkpoint(root / "float", config)
    _sharded(root / "sharded", tiny_config(architecture="glm4", tied=True))
    (root / "artifact").mkdir()
    plan = plan_of(config, QuantSpec(4, 32), lm_head=QuantSpec(8, 16, symmetric=False))
    write_all(root / "artifact", open_checkpoint(root / "float"), plan, "split")
    artifact = ("config.json", "quantize_config.json", "glmquant.json", "model.safetensors.index.json")
    pieces = tuple(path.name for path in (root / "artifact").glob("*.safetensors"))
    single = ("config.json", "model.safetensors")
    sharded = ("config.json", "model.safetensors.index.json", "one.safetensors", "two.safetensors")
    return [
        Subject("native-bin", ("config.json", *weights, *weights), read_all),
        Subject("native-int4", single, read_all),
        Subject("gptq-native", single, read_all),
        Subject("gptq-native", single, export_fused),
        Subject("float", single, read_and_quantize),
        Subject("float", single, export_standard),
        Subject("sharded", sharded, read_all),
        Subject("artifact", artifact + pieces, read_all),
        Subject("artifact", artifact + pieces, export_standard),
    ]


def _sharded(directory: Path, config: GlmConfig) -> None:
    write_config(directory, config)
    tensors = {name: tensor for name, tensor in float_tensors(config).items() if name != "lm_head.weight"}
    names = sorted(tensors)
    shards = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for shard, inside in shards.items():
        save_file({name: tensors[name] for name in inside}, directory / shard)
    weight_map = {name: shard for shard, inside in shards.items() for name in inside}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def _tokenizers(root: Path) -> list[Subject]:
    subjects = []
    for family in ("chatglm2", "chatglm3"):
        directory = root / f"tokenizer-{family}"
        directory.mkdir()
        for name in ("tokenizer.model", "tokenizer_config.json"):
            shutil.copy(golden(f"{family}-tiny") / name, directory)
        use = use_tokenizer(golden_config(f"{family}-tiny"))
        subjects.append(Subject(directory.name, ("tokenizer.model", "tokenizer.model", "tokenizer_config.json"), use))
    (root / "tokenizer-glm-4").mkdir()
    use = use_tokenizer(write_tokenizer(root / "tokenizer-glm-4"))
    subjects.append(Subject("tokenizer-glm-4", ("tokenizer.model", "tokenizer_config.json"), use))
    (root / "tokenizer-json").mkdir()
    golden_tokenizer("chatglm3-tiny").save(root / "tokenizer-json")
    use = use_tokenizer(replace(golden_config("chatglm3-tiny"), family="glm"))
    json_files = Subject("tokenizer-json", ("tokenizer.json", "tokenizer_config.json"), use)
    return [*subjects, json_files, *_side_files(root)]


def _side_files(root: Path) -> list[Subject]:
    """A fine-tune's: added tokens, generation settings, templates of its own."""
    directory = root / "side-files"
    (directory / "additional_chat_templates").mkdir(parents=True)
    shutil.copy(golden("chatglm3-tiny") / "tokenizer.model", directory)
    config = replace(golden_config("chatglm3-tiny"), vocab_size=2112)
    template = TEMPLATES["chatglm3"]
    files = {
        "added_tokens.json": {"<tool>": 2052, "<|end|>": 2053, "</s>": 2},
        "special_tokens_map.json": {"additional_special_tokens": ["<|end|>"], "eos_token": {"content": "</s>"}},
        "tokenizer_config.json": {
            "added_tokens_decoder": {"2052": {"content": "<tool>", "special": False, "rstrip": True}},
            "chat_template": [{"name": "default", "template": template}, {"name": "rag", "template": "{{ messages }}"}],
            "eos_token": "</s>",
        },
        "generation_config.json": {"eos_token_id": [2, 2053], "do_sample": True, "temperature": 0.8, "top_k": 50},
        "chat_template.json": {"chat_template": template},
    }
    for name, values in files.items():
        (directory / name).write_text(json.dumps(values), encoding="utf-8")
    jinja = ("chat_template.jinja", "additional_chat_templates/rag.jinja")
    for name in jinja:
        (directory / name).write_text(template, encoding="utf-8")
    names = (*files, *files, *jinja)
    return [Subject("side-files", names, use_tokenizer(config)), Subject("side-files", names, use_tokenizer(config))]


def _others(root: Path) -> list[Subject]:
    subjects = []
    for name, path in packaged_recipes().items():
        (root / f"recipe-{name}").mkdir()
        shutil.copy(path, root / f"recipe-{name}" / "recipe.yaml")
        subjects.append(Subject(f"recipe-{name}", ("recipe.yaml",), use_recipe))
    (root / "calibration").mkdir()
    write_calibration(calibration(), root / "calibration")
    files = ("calibration.json", "calibration.safetensors")
    return [*subjects[:4], Subject("calibration", files, lambda directory, _: read_calibration(directory))]


torch.set_num_threads(1)
