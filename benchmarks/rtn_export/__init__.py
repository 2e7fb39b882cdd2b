"""ChatGLM2-6B from its shards to an INT4 bundle: seconds and memory."""
