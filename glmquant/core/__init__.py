"""Tensor maths without files or model knowledge."""
