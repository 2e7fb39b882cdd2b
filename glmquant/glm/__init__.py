"""All that is GLM: architectures, names, blocks, tokenizers and chat templates."""
