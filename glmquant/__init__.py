"""glmquant: a GLM checkpoint to a small, fast, proven ONNX model."""

__version__ = "0.1.0"
