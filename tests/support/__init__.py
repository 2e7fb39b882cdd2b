"""What several tests share: checkpoints, models, oracles."""
