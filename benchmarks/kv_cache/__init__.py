"""What a quantized KV cache costs in perplexity and time."""
