"""Which pages are made from the code, and by what."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from website.api import api_reference
from website.captures import terminal_page
from website.commands import command_reference
from website.messages import troubleshooting
from website.recipes import recipe_table
from website.translations import TRANSLATIONS, with_blocks_of

ROOT: Final = Path(__file__).parents[1]
DOCS: Final = ROOT / "docs"
GENERATED: Final[dict[str, Callable[[], str]]] = {
    "api.md": api_reference,
    "commands.md": command_reference,
    "recipes.md": recipe_table,
    "terminal.md": terminal_page,
    "troubleshooting.md": troubleshooting,
}
"""By name in ``docs/``. ``recipe.md`` is made by ``glmquant.recipe.reference``, which users call for their methods."""


def written() -> dict[Path, str]:
    """Every file that is made, and what belongs in it now.

    Raises:
        ValueError: a translation has another number of code blocks than its original.
    """
    made = {DOCS / name: make() for name, make in GENERATED.items()}
    for translation, original in TRANSLATIONS.items():
        theirs, ours = ((ROOT / name).read_text(encoding="utf-8") for name in (original, translation))
        made[ROOT / translation] = with_blocks_of(theirs, ours)
    return made
