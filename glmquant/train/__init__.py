"""Training a classifier on labelled text."""
