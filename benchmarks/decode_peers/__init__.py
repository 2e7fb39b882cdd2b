"""Workers that the decode benchmark talks to through a pipe, each in its own environment."""
