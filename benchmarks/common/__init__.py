"""What several benchmarks share: the machine, processes and their costs, checkpoints to measure on."""
