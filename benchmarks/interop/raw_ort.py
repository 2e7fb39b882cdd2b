"""Greedy tokens from ``model.onnx`` with only onnxruntime and numpy: concatenated caches, left-padded batches."""

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort


def open_session(bundle: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    config = json.loads((bundle / "genai_config.json").read_text())["model"]["decoder"]["session_options"]
    for name, value in config.items():
        if "." in name:
            options.add_session_config_entry(name, value)
    return ort.InferenceSession(bundle / "model.onnx", options)


def greedy(bundle: Path, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
    """As many tokens for each prompt, those after an end token included."""
    session = open_session(bundle)
    longest = max(map(len, prompts))
    ids = np.zeros((len(prompts), longest), np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    kinds = {
        "tensor(float)": np.float32,
        "tensor(float16)": np.float16,
        "tensor(int8)": np.int8,
        "tensor(uint8)": np.uint8,
    }
    past = {
        value.name: np.zeros((len(prompts), value.shape[1], 0, value.shape[3]), kinds[value.type])
        for value in session.get_inputs()[2:]
    }
    names = [value.name for value in session.get_outputs()]
    answers = []
    for _ in range(new_tokens):
        outputs = dict(zip(names, session.run(names, {"input_ids": ids, "attention_mask": mask} | past), strict=True))
        ids = outputs["logits"][:, -1:].argmax(-1)
        answers.append(ids[:, 0])
        mask = np.concatenate([mask, np.ones((len(prompts), 1), np.int64)], axis=1)
        past = {name: outputs[name.replace("past_key_values", "present")] for name in past}
    return np.stack(answers, 1).tolist()
