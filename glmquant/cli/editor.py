"""The line that a user types in a terminal: edited, recalled and completed where Python has readline."""

from collections.abc import Sequence


class Editor:
    """Asks for lines. Those typed before can be recalled, in this process; nothing is kept on disk.

    Args:
        words: that Tab completes at the start of a line.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words
        try:
            import readline
        except ImportError:  # Windows, whose console edits lines itself
            return
        readline.set_completer(self._completion)
        readline.set_completer_delims("")
        if "libedit" in (readline.__doc__ or ""):
            readline.parse_and_bind("bind ^I rl_complete")
            return
        readline.parse_and_bind("tab: complete")
        readline.parse_and_bind("set enable-bracketed-paste on")  # several lines that are pasted are one turn

    def ask(self, prompt: str) -> str | None:
        """The next line; None where there is no more. Ctrl-C raises KeyboardInterrupt."""
        try:
            return input(prompt)
        except EOFError:
            return None

    def _completion(self, begun: str, number: int) -> str | None:
        fitting = [word for word in self._words if begun and word.startswith(begun)]
        return fitting[number] if number < len(fitting) else None
