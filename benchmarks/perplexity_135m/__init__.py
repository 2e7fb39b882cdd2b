"""Perplexity of what ships, through ONNX Runtime."""
