"""GPTQ of a real model beside GPTQModel: seconds and memory."""
