"""A check's results for readers and machines: JSON, Markdown, HTML, JUnit XML."""
