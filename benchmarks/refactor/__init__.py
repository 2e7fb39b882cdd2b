"""The present code beside release 0.1's: what each costs."""
