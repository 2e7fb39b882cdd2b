"""A layer imports only layers below it; siblings do not import each other."""

import ast
from pathlib import Path

import glmquant

PACKAGE = Path(glmquant.__file__).parent
LAYERS = [
    {"errors", "progress", "assets", "recipes"},
    {"core"},
    {"methods", "glm", "data"},
    {"recipe"},
    {"store"},
    {"streaming"},
    {"quantization", "onnx_export", "runtime", "train"},
    {"evaluation"},
    {"report"},
    {"pipeline"},
    {"api"},
    {"cli"},
    {"__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def imports(path: Path) -> set[str]:
    """Rooms of glmquant that a file imports, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "glmquant":
            names = [f"glmquant.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("glmquant.") and "__" not in name}
    return found


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_room_has_a_layer() -> None:
    rooms = {room_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert rooms <= set(LEVEL)


def test_imports_point_downward() -> None:
    upward = []
    for path in sorted(PACKAGE.rglob("*.py")):
        room = room_of(path)
        if room == "__init__":
            continue
        for other in imports(path) - {room}:
            if LEVEL[other] >= LEVEL[room]:
                upward.append(f"{path.relative_to(PACKAGE)} imports {other}")
    assert upward == []
