"""Damaged files of every kind glmquant reads: each ends in success or in one clear error."""
