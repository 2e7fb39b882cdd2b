"""Running a bundle in ONNX Runtime."""
