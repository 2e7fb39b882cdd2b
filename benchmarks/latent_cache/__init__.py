"""Keeping latents instead of keys and values."""
