"""``python -m website`` writes every generated page, and puts a page's code into its translations."""

from website.pages import written

for path, text in written().items():
    path.write_text(text, encoding="utf-8", newline="\n")
