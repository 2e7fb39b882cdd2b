"""Quantizing a checkpoint block by block: the loop, error propagation, allocation, forecasts."""
