"""Decoding and prefill beside llama.cpp."""
