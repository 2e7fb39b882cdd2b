"""GPTQ at the size of ChatGLM2-6B: speed, forecast, memory."""
