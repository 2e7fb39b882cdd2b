"""The same models quantised by every method of ours and by every peer, from the same tokens, evaluated alike."""
