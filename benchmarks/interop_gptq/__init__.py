"""GPTQ checkpoints between glmquant and other software; each in an environment of its own."""
