"""What is typed most often answers at once."""
