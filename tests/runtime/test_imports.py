import subprocess
import sys
from pathlib import Path

import glmquant.runtime


def test_running_a_bundle_imports_only_what_it_needs() -> None:
    """Each would add a tenth of a second or more, torch a second, to the start of generate, chat and classify."""
    names = [path.stem for path in Path(glmquant.runtime.__file__).parent.glob("*.py") if path.stem != "__init__"]
    imports = "\n".join(f"import glmquant.runtime.{name}" for name in names)
    slow = ("torch", "scipy", "pydantic", "jinja2", "transformers")
    code = f"import sys\n{imports}\nprint([name for name in {slow} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
