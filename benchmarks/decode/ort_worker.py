"""glmquant behind a pipe: loads a bundle, then answers ``{"prompt": [...], "new_tokens": N}`` with timings."""

import json
import os
import sys
import time
from pathlib import Path

now = time.process_time if os.environ.get("CLOCK") == "processor" else time.perf_counter
"""On a busy machine the processor time of one thread tells more than the wall's."""


def peak_bytes() -> int:
    """Of this program alone: `ru_maxrss` would count what its parent held when it was started."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def main(path: str, threads: str) -> None:
    import numpy as np

    from glmquant.runtime.model import OnnxModel

    start = now()
    model = OnnxModel.open(Path(path), num_threads=int(threads))
    print(json.dumps({"load": now() - start, "peak": peak_bytes()}), flush=True)

    def run(prompt: list[int], new_tokens: int) -> dict:
        start = now()
        cache = model.new_cache(1, len(prompt) + new_tokens)
        mask_BL = np.ones((1, len(prompt) + new_tokens), np.int64)

        def step(ids: list[int]) -> int:
            columns = cache.length + len(ids)
            logits = model.forward_with_cache(np.array([ids], np.int64), mask_BL[:, :columns], cache, keep=1)
            return int(logits[0, -1].argmax())

        tokens = [step(prompt)]
        first = now()
        while len(tokens) < new_tokens:
            tokens.append(step([tokens[-1]]))
        end = now()
        return {"prefill": first - start, "decode": end - first, "tokens": tokens, "peak": peak_bytes()}

    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
