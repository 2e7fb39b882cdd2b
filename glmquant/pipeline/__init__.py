"""Whole stages on values that are opened already: export, check, and all of them in one run."""
