"""``python -m glmquant``."""

from glmquant.cli import main

main()
