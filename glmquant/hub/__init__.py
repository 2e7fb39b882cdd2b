"""Checkpoints by the id of their repository: the caches that hold them already, and the download of what is missing."""
