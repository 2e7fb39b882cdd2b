"""Matrix products with quantized weights in ONNX Runtime."""
