"""Logits of a checkpoint as other software computes them. Runs in that software's environment.

python logits_elsewhere.py transformers|gptqmodel|autoround CHECKPOINT CASE.json OUT.safetensors
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

KERNEL = "gptq_torch"  # the others are compiled when first used, which takes minutes


def by_transformers(path):
    from transformers import AutoModelForCausalLM, GPTQConfig

    bits = json.loads((Path(path) / "config.json").read_text())["quantization_config"]["bits"]
    config = GPTQConfig(bits=bits, backend=KERNEL)
    return AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.bfloat16, device_map="cpu", quantization_config=config
    )


def by_gptqmodel(path):
    from gptqmodel import GPTQModel

    return GPTQModel.load(path, device="cpu", backend=KERNEL).model


def by_autoround(path):
    import auto_round  # noqa: F401  (registers the format with transformers)
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, device_map="cpu")


LOADERS = {"transformers": by_transformers, "gptqmodel": by_gptqmodel, "autoround": by_autoround}


def main():
    loader, checkpoint, case, out = sys.argv[1:]
    model = LOADERS[loader](checkpoint).eval()
    modules = [module for name, module in model.named_modules() if name.endswith(("down_proj", "lm_head"))]
    print("linears:", sorted({type(module).__name__ for module in modules}))
    tokens = torch.tensor(json.loads(Path(case).read_text()))
    with torch.inference_mode():
        logits = model(input_ids=tokens).logits
    save_file({"logits": logits.float().contiguous()}, out)


if __name__ == "__main__":
    main()
