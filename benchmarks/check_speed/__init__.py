"""Checking costs little more than running the bundle."""
