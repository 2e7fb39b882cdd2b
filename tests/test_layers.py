"""A layer imports only layers below it; siblings do not import each other; inside a room imports form no circle."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import glmquant

PACKAGE = Path(glmquant.__file__).parent
LAYERS = [
    {"inert"},
    {"errors", "progress", "assets", "recipes"},
    {"core"},
    {"methods", "glm", "data", "live"},
    {"recipe"},
    {"store", "hub"},
    {"streaming"},
    {"quantization", "onnx_export", "runtime", "train"},
    {"evaluation"},
    {"reports"},
    {"pipeline"},
    {"api"},
    {"serve"},
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


def modules() -> dict[str, Path]:
    """Every file by its dotted name."""
    files = {path: path.relative_to(PACKAGE.parent).with_suffix("").parts for path in PACKAGE.rglob("*.py")}
    return {".".join(parts).removesuffix(".__init__"): path for path, parts in files.items()}


def imported_modules(path: Path, known: dict[str, Path]) -> set[str]:
    """Files of glmquant that a file imports, in functions and under TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in names}
    return found & set(known)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_files_of_a_room_do_not_import_each_other_in_a_circle() -> None:
    known = {name: path for name, path in modules().items() if path != PACKAGE / "__init__.py"}
    graph = {}
    for name, path in known.items():
        others = imported_modules(path, known) - {name}
        graph[name] = {other for other in others if room_of(known[other]) == room_of(path)}
    assert circle(graph) == []


def test_a_circle_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("if TYPE_CHECKING:\n    from glmquant.x.b import B\n", encoding="utf-8")
    (tmp_path / "b.py").write_text("def f():\n    from glmquant.x import a\n", encoding="utf-8")
    known = {"glmquant.x.a": tmp_path / "a.py", "glmquant.x.b": tmp_path / "b.py"}
    graph = {name: imported_modules(path, known) for name, path in known.items()}
    assert set(circle(graph)) == set(known)
    assert circle({"glmquant.x.a": {"glmquant.x.b"}, "glmquant.x.b": set()}) == []
