"""Text in, samples out: for calibration, evaluation and classification. Never downloads."""
