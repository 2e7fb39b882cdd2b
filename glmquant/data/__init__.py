"""Read text, labeled examples and questions, and turn them into tokens. Nothing is downloaded."""
