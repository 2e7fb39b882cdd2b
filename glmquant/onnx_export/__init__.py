"""From a model to an ONNX bundle."""
