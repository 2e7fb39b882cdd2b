"""A model that no recipe was tuned on, on texts that calibration never saw."""
