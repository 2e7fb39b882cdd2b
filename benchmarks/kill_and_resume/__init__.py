"""A killed run, started again, ends with the same bytes."""
