"""LoRA adapters on disk: trained (at random) and merged by PEFT, or written tensor by tensor."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from glmquant import assets
from glmquant.store.checkpoint import open_checkpoint
from tests.support.checkpoints import float_tensors, tiny_config, write_checkpoint

FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def tiny_base(directory: Path, dtype: str = "float32", **changes: Any) -> Path:
    """A ``glm`` checkpoint with weights of a size that leaves activations alone."""
    config = replace(tiny_config(**changes), float_dtype=dtype)  # type: ignore[arg-type]
    tensors = {name: (0.1 * tensor.float()) for name, tensor in float_tensors(config).items()}
    if config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    return write_checkpoint(directory, config, {n: t.to(FLOATS[config.float_dtype]) for n, t in tensors.items()})


def train(base: Path, directory: Path, *, task: str = "CAUSAL_LM", **options: Any) -> Path:
    """An adapter that PEFT made and saved, everything trainable in it random."""
    from peft import LoraConfig, get_peft_model

    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]} | options
    torch.manual_seed(3)
    model = get_peft_model(model_of(base, task), LoraConfig(task_type=task, init_lora_weights=False, **options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and ("lora_" not in name or "magnitude" in name):
                parameter.add_(0.05 * torch.randn_like(parameter))
            elif "lora_embedding" in name:
                parameter.mul_(0.1)
    model.save_pretrained(directory)
    return directory


def merge(base: Path, adapter: Path, task: str = "CAUSAL_LM") -> Any:
    """The model that PEFT's ``merge_and_unload`` gives, in the dtype of the checkpoint."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model_of(base, task), adapter).merge_and_unload().eval()


def model_of(base: Path, task: str = "CAUSAL_LM") -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    kind = AutoModelForCausalLM if task == "CAUSAL_LM" else AutoModelForSequenceClassification
    dtype = json.loads((base / "config.json").read_text())["dtype"]
    return kind.from_pretrained(base, dtype=FLOATS[dtype])


def write_adapter(directory: Path, tensors: Mapping[str, Tensor], **config: Any) -> Path:
    """Tensors under the names given, behind ``base_model.model.``, and a configuration."""
    directory.mkdir(parents=True, exist_ok=True)
    values = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": None} | config
    (directory / "adapter_config.json").write_text(json.dumps(values), encoding="utf-8")
    named = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(named, directory / "adapter_model.safetensors")
    return directory


def packaged_adapter(directory: Path, alpha: float = 16) -> Path:
    """Of the model in the package, on query_key_value of every block; by default it changes much."""
    config = open_checkpoint(assets.DEMO_MODEL).config
    rows = config.query_rows + 2 * config.key_value_rows
    tensors: dict[str, Tensor] = {}
    for layer in range(config.num_hidden_layers):
        module = f"transformer.encoder.layers.{layer}.self_attention.query_key_value"
        tensors |= halves(module, rows, config.hidden_size, seed=layer)
    return write_adapter(directory, tensors, target_modules=["query_key_value"], lora_alpha=alpha)


def edit(directory: Path, **changes: Any) -> Path:
    """Changes fields of ``adapter_config.json``."""
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    return directory


def halves(module: str, rows: int, columns: int, rank: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Both matrices of a linear layer's addition."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{module}.lora_A.weight": 0.1 * torch.randn(rank, columns, generator=generator),
        f"{module}.lora_B.weight": 0.1 * torch.randn(rows, rank, generator=generator),
    }
