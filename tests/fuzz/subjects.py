"""Valid inputs of every kind, each with what glmquant does with it."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from glmquant.core.spec import QuantSpec
from glmquant.glm.config import GlmConfig
from glmquant.glm.tokenizers.chat import TEMPLATES, Message
from glmquant.glm.tokenizers.tokenizer import load_tokenizer
from glmquant.hub import transfer
from glmquant.hub.locate import locate
from glmquant.onnx_export.save import export_bundle
from glmquant.quantization.quantize import quantize
from glmquant.quantization.summary import summarize
from glmquant.recipe.load import load_recipe
from glmquant.recipe.packaged import packaged_recipes
from glmquant.recipe.plan import make_plan
from glmquant.recipe.schema import ExportOptions, Recipe
from glmquant.store.adapter import open_adapter
from glmquant.store.calibration import read_calibration, write_calibration
from glmquant.store.checkpoint import Checkpoint, open_checkpoint, with_adapter
from tests.fuzz import data_files, own_files
from tests.store.test_artifact import plan_of, write_all
from tests.store.test_calibration import calibration
from tests.store.test_quantized_checkpoints import gptq, published, row_quantized, shuffled, write
from tests.support.adapters import halves, write_adapter
from tests.support.checkpoints import float_tensors, tiny_config, tiny_sparse_config, write_checkpoint, write_config
from tests.support.glm4 import write_tokenizer
from tests.support.golden import config as golden_config
from tests.support.golden import directory as golden
from tests.support.golden import tokenizer as golden_tokenizer
from tests.support.handed import cached, saved
from tests.support.hub import COMMIT, Hub, Repository, running, sibling

ROUNDED = Recipe.model_validate({"version": 1, "rules": [{"match": "*", "spec": {"bits": 8, "group_size": 32}}]})


@dataclass(frozen=True)
class Subject:
    """A directory, the files of it to damage, and what is done with it; ``scratch`` is an empty directory."""

    name: str
    files: tuple[str, ...]
    use: Callable[[Path, Path], object]


def read_all(directory: Path, _: Path) -> None:
    read_tensors(open_checkpoint(directory))


def read_adapted(base: Path) -> Callable[[Path, Path], None]:
    def use(directory: Path, _: Path) -> None:
        read_tensors(with_adapter(open_checkpoint(base), open_adapter(directory)))

    return use


def read_tensors(checkpoint: Checkpoint) -> None:
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
    others = (_checkpoints, _adapters, _tokenizers, _others, _hub, _data)
    return [*(subject for make in others for subject in make(root)), *_own(root)]


def _checkpoints(root: Path) -> list[Subject]:
    shutil.copytree(golden("chatglm2-tiny"), root / "native-bin")
    weights = [path.name for path in (root / "native-bin").glob("pytorch_model*")]
    write(root / "native-int4", row_quantized(published(), 4), quantization_bit=4)
    section = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True}
    words = gptq(published(), QuantSpec(4, 32, symmetric=False), "gptq", shuffled)
    write(root / "gptq-native", words, quantization_config=section)
    config = tiny_config()
    write_checkpoint(root / "float", config)
    write_checkpoint(root / "sparse", tiny_sparse_config())
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
        Subject("sparse", single, read_and_quantize),
        Subject("sparse", single, export_fused),
        Subject("sharded", sharded, read_all),
        Subject("artifact", artifact + pieces, read_all),
        Subject("artifact", artifact + pieces, export_standard),
        *_as_handed(root),
    ]


def _as_handed(root: Path) -> list[Subject]:
    """Checkpoints in a trainer's form and in the hub's cache."""
    wrapped = {f"module.{name}": tensor for name, tensor in published().items()}
    beside = {"epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(1)}}, "param_groups": [{"lr": 0.1}]}}
    saved(root / "nested", {"module": wrapped, **beside}, "model.pt", pickle_protocol=4)
    step = "global_step3/mp_rank_00_model_states.pt"
    (saved(root / "deepspeed", {"module": published(), **beside}, step) / "latest").write_text("global_step3")
    names = list(published())
    saved(root / "no-index", {name: published()[name] for name in names[:9]}, "pytorch_model-00001-of-00002.bin")
    rest = {name: published()[name] for name in names[9:]}
    torch.save(rest, root / "no-index" / "pytorch_model-00002-of-00002.bin")
    both = write_checkpoint(root / "both-heads", replace(tiny_config(), tie_word_embeddings=True))
    cached(write_checkpoint(root / "source", tiny_config()), root, "models--a--b", "abc")
    (root / "models--a--b" / "refs").mkdir()
    (root / "models--a--b" / "refs" / "main").write_text("abc")
    snapshot = ("snapshots/abc/config.json", "snapshots/abc/model.safetensors", "refs/main")
    shards = tuple(path.name for path in (root / "no-index").glob("*.bin"))
    return [
        Subject("nested", ("config.json", "model.pt", "model.pt", "tokenizer_config.json"), read_all),
        Subject("deepspeed", ("config.json", step, "latest"), read_all),
        Subject("no-index", ("config.json", *shards), read_all),
        Subject(both.name, ("config.json", "model.safetensors"), read_all),
        Subject("models--a--b", snapshot, read_all),
    ]


def _adapters(root: Path) -> list[Subject]:
    """Of the checkpoint ``float``: additions in both layouts' names, some of DoRA, and tensors trained as a whole."""
    at, native = "model.layers.0.self_attn", "transformer.encoder.layers.1.self_attention.query_key_value"
    tensors = halves(native, 128, 64) | halves(f"{at}.o_proj", 64, 64, rank=2)
    tensors |= {"lm_head.weight": torch.ones(160, 64), f"{at}.q_proj.bias": torch.ones(64)}
    tensors |= {"model.embed_tokens.lora_embedding_A": torch.ones(4, 160)}
    tensors |= {"model.embed_tokens.lora_embedding_B": torch.ones(64, 4)}
    fields = {
        "rank_pattern": {r"layers\.0\..*o_proj": 2},
        "alpha_pattern": {"o_proj": 3},
        "modules_to_save": ["lm_head"],
    }
    write_adapter(root / "adapter", tensors, **fields)
    dora = halves(f"{at}.q_proj", 64, 64) | {f"{at}.q_proj.lora_magnitude_vector": torch.ones(64)}
    write_adapter(root / "adapter-dora", {}, use_dora=True, use_rslora=True)
    (root / "adapter-dora" / "adapter_model.safetensors").unlink()
    torch.save(dora, root / "adapter-dora" / "adapter_model.bin")
    use = read_adapted(root / "float")
    return [
        Subject("adapter", ("adapter_config.json", "adapter_model.safetensors"), use),
        Subject("adapter-dora", ("adapter_config.json", "adapter_model.bin"), use),
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


HUB_ID = "THUDM/chatglm2-6b"


def download_from(directory: Path, scratch: Path) -> None:
    """From a hub that lists what answer.json says and sends what lies beside it."""
    listed = (directory / "answer.json").read_bytes()
    with on_the_hub(Repository.of(directory / "model"), scratch) as hub:
        hub.faults[f"/api/models/{HUB_ID}/revision/main"] = lambda handler: handler.send(200, listed, {}) or True
        locate(HUB_ID)


def read_cached(directory: Path, scratch: Path) -> None:
    """A cache that others wrote, and a hub to complete it from."""
    shutil.copytree(directory, scratch / "cache", symlinks=True)
    with on_the_hub(Repository.of(golden("chatglm2-tiny")), scratch):
        found = locate(HUB_ID)
        open_checkpoint(found.path, origin=found.origin)


@contextmanager
def on_the_hub(repository: Repository, scratch: Path) -> Iterator[Hub]:
    transfer.PAUSE = 0.0  # type: ignore[misc]
    with running() as hub:
        hub.repositories[HUB_ID] = repository
        constants.ENDPOINT, constants.HF_HUB_CACHE = hub.address, str(scratch / "cache")
        yield hub


def _hub(root: Path) -> list[Subject]:
    model = root / "hub-answer" / "model"
    shutil.copytree(golden("chatglm2-tiny"), model)
    files = Repository.of(model).files
    listed = {"sha": COMMIT, "siblings": [sibling(*item) for item in files.items()]}
    (root / "hub-answer" / "answer.json").write_text(json.dumps(listed))
    with on_the_hub(Repository.of(model), root / "hub-cache-made"):
        locate(HUB_ID)
    shutil.move(root / "hub-cache-made" / "cache", root / "hub-cache")
    repository = f"models--{HUB_ID.replace('/', '--')}"
    small = ("config.json", "pytorch_model.bin.index.json", "tokenizer_config.json")
    snapshot = tuple(f"{repository}/snapshots/{COMMIT}/{name}" for name in small)
    answers = ("answer.json", "answer.json", "model/config.json", "model/tokenizer.model")
    return [
        Subject("hub-answer", answers, download_from),
        Subject("hub-cache", (f"{repository}/refs/main", *snapshot), read_cached),
    ]


def _data(root: Path) -> list[Subject]:
    (root / "data").mkdir()
    names = data_files.write(root / "data")
    return [Subject("data", (name,), data_files.reader(name)) for name in names]


def _own(root: Path) -> list[Subject]:
    (root / "own").mkdir()
    return [Subject(f"own/{own.name}", own.files, own.use) for own in own_files.write(root / "own")]


torch.set_num_threads(1)
