"""In Optimum's ORTModelForCausalLM: greedy tokens one by one and as a left-padded batch.

Runs in the environment of requirements-optimum.txt: ``python run_optimum.py BUNDLE CASE OUT``.
"""

import json
import sys
from pathlib import Path

import onnxruntime as ort
import torch
import transformers
from optimum.onnxruntime import ORTModelForCausalLM


def greedy(model: ORTModelForCausalLM, prompts: list[list[int]], new_tokens: int, pad_id: int) -> list[list[int]]:
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    answer = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False, pad_token_id=pad_id
    )
    return answer[:, longest:].tolist()


def main(bundle: str, case_path: str, out: str) -> None:
    case = json.loads(Path(case_path).read_text())
    options = ort.SessionOptions()
    config = json.loads((Path(bundle) / "genai_config.json").read_text())["model"]["decoder"]["session_options"]
    for name, value in config.items():
        if "." in name:
            options.add_session_config_entry(name, value)
    model = ORTModelForCausalLM.from_pretrained(bundle, session_options=options)
    new, pad_id = case["new_tokens"], case["pad_id"]
    result = {
        "version": f"optimum-onnx 0.1, transformers {transformers.__version__}",
        "single": [greedy(model, [prompt], new, pad_id)[0] for prompt in case["prompts"]],
        "batch": greedy(model, case["prompts"], new, pad_id),
    }
    Path(out).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
