"""One bundle directory, four runtimes: the same greedy tokens."""
