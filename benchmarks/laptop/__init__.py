"""ChatGLM2-6B on a small machine: what its passes cost, and what peers take for the same."""
