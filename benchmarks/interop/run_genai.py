"""In onnxruntime-genai: greedy tokens one by one, as a batch, and the ids of chat-templated text.

Runs in the environment of requirements-genai.txt: ``python run_genai.py BUNDLE CASE OUT``.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime_genai as og


def greedy(model: og.Model, prompts: list[list[int]], new_tokens: int, pad_id: int) -> list[list[int]]:
    """Shorter prompts are padded on the right, as onnxruntime-genai's own tokenizer does."""
    longest = max(map(len, prompts))
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=longest + new_tokens, do_sample=False, batch_size=len(prompts))
    generator = og.Generator(model, params)
    ids = np.full((len(prompts), longest), pad_id, np.int32)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt
    generator.append_tokens(ids if len(prompts) > 1 else ids[0])
    answers = []
    while not generator.is_done():
        generator.generate_next_token()
        answers.append(np.array(generator.get_next_tokens()))
    return np.stack(answers, 1).tolist()


def main(bundle: str, case_path: str, out: str) -> None:
    case = json.loads(Path(case_path).read_text())
    model = og.Model(bundle)
    tokenizer = og.Tokenizer(model)
    new, pad_id = case["new_tokens"], case["pad_id"]
    result = {
        "version": og.__version__ if hasattr(og, "__version__") else "0.18",
        "single": [greedy(model, [prompt], new, pad_id)[0] for prompt in case["prompts"]],
        "batch": greedy(model, case["prompts"], new, pad_id),
        "chat": [],
    }
    for messages in case["chats"]:
        text = tokenizer.apply_chat_template(json.dumps(messages), add_generation_prompt=True)
        result["chat"].append([int(token) for token in tokenizer.encode(text)])
    Path(out).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
