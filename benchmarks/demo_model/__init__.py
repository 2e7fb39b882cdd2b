"""The parts of training the demonstration model, and what it can do."""
