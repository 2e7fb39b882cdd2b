"""Training a classifier on labeled text."""
