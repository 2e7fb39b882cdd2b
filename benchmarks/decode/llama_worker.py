"""llama.cpp behind a pipe: loads a GGUF, then answers a line ``{"prompt": [...], "new_tokens": N}`` with timings.

Runs in the environment of requirements-llama.txt. ``--quantize F16 OUT`` writes a Q4_0 file instead; a third argument
``flash`` turns flash attention on, which llama.cpp's own programs do by default and this package does not.
"""

import json
import os
import sys
import time
from pathlib import Path

import llama_cpp
import numpy as np

now = time.process_time if os.environ.get("CLOCK") == "processor" else time.perf_counter
"""On a busy machine the processor time of one thread tells more than the wall's."""


def quantize(source: str, out: str) -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
    params.nthread = 2
    if llama_cpp.llama_model_quantize(source.encode(), out.encode(), params):
        raise SystemExit(f"llama.cpp could not quantize {source}")


class Model:
    def __init__(self, path: str, threads: int, flash: bool) -> None:
        self.llama = llama_cpp.Llama(
            path,
            n_ctx=2048,
            n_batch=512,
            n_ubatch=512,
            n_threads=threads,
            n_threads_batch=threads,
            flash_attn=flash,
            verbose=False,
        )
        self.vocabulary = self.llama.n_vocab()

    def step(self, tokens: list[int]) -> int:
        """The likeliest next token."""
        self.llama.eval(tokens)
        logits = llama_cpp.llama_get_logits_ith(self.llama.ctx, -1)
        return int(np.ctypeslib.as_array(logits, shape=(self.vocabulary,)).argmax())

    def run(self, prompt: list[int], new_tokens: int) -> dict:
        self.llama.reset()
        start = now()
        tokens = [self.step(prompt)]
        first = now()
        while len(tokens) < new_tokens:
            tokens.append(self.step([tokens[-1]]))
        end = now()
        return {"prefill": first - start, "decode": end - first, "tokens": tokens, "peak": peak_bytes()}


def peak_bytes() -> int:
    """Of this program alone: `ru_maxrss` would count what its parent held when it was started."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def main(path: str, threads: str, attention: str = "") -> None:
    start = now()
    model = Model(path, int(threads), attention == "flash")
    print(json.dumps({"load": now() - start, "peak": peak_bytes()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(model.run(**json.loads(line))), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--quantize":
        quantize(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
