"""What to do, as data: the schema, loading by name or path, and rules resolved to a plan."""
