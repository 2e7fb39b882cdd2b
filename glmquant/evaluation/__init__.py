"""Measuring what ships against the FP16 baseline, and the verdict."""
