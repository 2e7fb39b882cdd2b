"""Tokenizers and chat templates, rebuilt from a checkpoint's data files."""
