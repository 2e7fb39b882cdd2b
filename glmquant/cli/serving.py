"""What ``serve`` says when it begins."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from glmquant.cli.printing import show
from glmquant.inert import inert_line

if TYPE_CHECKING:
    from glmquant.serve.engine import Engine
    from glmquant.serve.server import Listener


def say_where(bundle: Path, engine: "Engine", listener: "Listener", *, as_json: bool) -> None:
    """Address, model, and how to call it, on stdout; a warning where others can reach it."""
    from glmquant.runtime.description import described

    facts = {"url": listener.url, "model": engine.name, "max_length": engine.max_length}
    if as_json:
        show(json.dumps(facts, ensure_ascii=False), to=sys.stdout)
    else:
        asked = json.dumps({"messages": [{"role": "user", "content": "hello"}]})
        call = ["curl", f"{listener.url}/v1/chat/completions", "-H", "Content-Type: application/json", "-d", asked]
        lines = [
            f"serving {described(bundle)}, a context of {engine.max_length:,} tokens",
            f"  page    {listener.url}",
            f"  OpenAI  base_url={listener.url}/v1 model={engine.name}, any key",
            f"  curl    {shlex.join(call[1:])}",
            "Ctrl-C ends it",
        ]
        show("\n".join(inert_line(line) for line in lines), to=sys.stdout)
    if not listener.is_loopback:
        show("warning: whoever reaches this address can use the model; there is no password, no TLS", to=sys.stderr)
