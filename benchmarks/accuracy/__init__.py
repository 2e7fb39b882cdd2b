"""The same models quantized by every method of ours and by every peer, from the same tokens, evaluated alike."""
