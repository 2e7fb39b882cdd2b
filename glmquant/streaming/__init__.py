"""The one walk of samples through a model, a block in memory at a time."""
