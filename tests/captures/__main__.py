"""``python -m tests.captures`` takes the captures in ``docs/captures`` again; one that says the same stays as it is."""

import tempfile
from pathlib import Path

from tests.captures.files import stored, write_if_changed
from tests.captures.sessions import COLUMNS, SESSIONS, captured, prepare

for columns in COLUMNS:
    with tempfile.TemporaryDirectory() as desk:
        prepare(Path(desk))
        for name in SESSIONS:
            changed = write_if_changed(name, columns, captured(name, columns, Path(desk)))
            print(stored(name, columns), "written" if changed else "as it was")
