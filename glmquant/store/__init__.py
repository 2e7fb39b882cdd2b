"""Reading and writing checkpoints and artifacts, one tensor at a time."""
