"""Decoding and prefill of models with routed experts beside llama.cpp."""
