"""Files that somebody made to do harm, or that came to harm: each ends in one clear error."""
