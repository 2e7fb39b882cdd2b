"""The gate's intervals hold what they promise."""
