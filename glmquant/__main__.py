"""The command, also as ``python -m glmquant``: Ctrl-C ends it quietly from the first import on."""

INTERRUPTED = 130
"""As :data:`glmquant.cli.endings.INTERRUPTED`, which is not imported yet when this is needed."""


def main() -> None:
    """Entry point of the ``glmquant`` command; exits."""
    try:
        from glmquant.cli import main as command

        command()
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


if __name__ == "__main__":
    main()
