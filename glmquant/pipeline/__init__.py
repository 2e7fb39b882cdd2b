"""Calibrating and quantising, block by block."""
