"""Accuracy reports as JSON, Markdown, HTML and JUnit XML."""
