"""A GGUF quantized by llama.cpp. Runs in llama.cpp's environment.

python write_llama.py F16.gguf IMPORTANCE.npz OPTIONS.json OUT

OPTIONS: ``kind``, one of llama.cpp's file types, and ``importance``, whether the matrix is used. Embedding and head
stay float16.
"""

import ctypes
import json
import sys

import llama_cpp
import numpy as np


def importance_matrix(path):
    """An array of entries that ends with an empty one, and what its pointers point to."""
    arrays = {name: np.ascontiguousarray(values, np.float32) for name, values in np.load(path).items()}
    entries = (llama_cpp.llama_model_imatrix_data * (len(arrays) + 1))()
    for entry, (name, values) in zip(entries, arrays.items(), strict=False):
        entry.name = name.encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = len(values)
    return entries, arrays


def main():
    source, importance, text, out = sys.argv[1:]
    options = json.loads(text)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{options['kind']}")
    params.nthread = 2
    params.output_tensor_type = params.token_embedding_type = llama_cpp.GGML_TYPE_F16
    if options["importance"]:
        entries, _arrays = importance_matrix(importance)
        params.imatrix = ctypes.cast(entries, ctypes.POINTER(llama_cpp.llama_model_imatrix_data))
    if llama_cpp.llama_model_quantize(source.encode(), out.encode(), params):
        raise SystemExit(f"llama.cpp could not quantize {source}")


if __name__ == "__main__":
    main()
