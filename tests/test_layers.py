"""Import direction: kernels <- gpu_render <- api; the viewer knows only HTTP; benchmarks may import all, and what shows
or starts them in the API may import them."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OWN = {"kernels", "gpu_render", "api", "viewer", "benchmarks", "tests"}
ALLOWED = {
    "kernels": {"kernels"},
    "gpu_render": {"kernels", "gpu_render"},
    "api": {"kernels", "gpu_render", "api", "viewer"},
    "viewer": {"viewer"},
    "benchmarks": {"kernels", "gpu_render", "api", "viewer", "benchmarks"},
}

SHOW_BENCHMARKS = {"api/cli.py", "api/benchmarks.py"}


def imports(path: Path) -> set[str]:
    """Full names of all modules that a file imports, wherever the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
        elif isinstance(node, ast.ImportFrom):
            raise AssertionError(f"{path.name}: relative import")
    return names


def sources(package: str) -> list[Path]:
    return [path for path in sorted((ROOT / package).rglob("*.py")) if "node_modules" not in path.parts]


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    files = sources(package)
    assert files
    for path in files:
        allowed = ALLOWED[package] | ({"benchmarks"} if path.relative_to(ROOT).as_posix() in SHOW_BENCHMARKS else set())
        own = {name.split(".")[0] for name in imports(path)} & OWN
        assert own <= allowed, f"{path.relative_to(ROOT)} imports {sorted(own - allowed)}"


def test_kernels_know_arrays_only() -> None:
    for path in sources("kernels"):
        foreign = {name.split(".")[0] for name in imports(path)} & {"pydicom", "fastapi", "imagecodecs", "sqlite3"}
        assert not foreign, f"{path.name} imports {foreign}"


@pytest.mark.parametrize(
    ("packages", "file"), [(("cupy", "cupyx"), "kernels/cuda.py"), (("nvidia",), "kernels/nvcodec.py")]
)
def test_what_needs_the_gpu_is_imported_in_one_file(packages: tuple[str, ...], file: str) -> None:
    """Of the service, that is: a benchmark may compare it with other ways to use them."""
    users = {
        path.relative_to(ROOT).as_posix()
        for package in ALLOWED.keys() - {"benchmarks"}
        for path in sources(package)
        if any(name.split(".")[0] in packages for name in imports(path))
    }
    assert users == {file}


def test_http_stays_in_the_api() -> None:
    for path in sources("gpu_render"):
        foreign = {name.split(".")[0] for name in imports(path)} & {"fastapi", "starlette", "uvicorn"}
        assert not foreign, f"{path.name} imports {foreign}"


def test_there_are_no_import_cycles() -> None:
    """A module never imports itself by way of others. Imports inside functions do not count: they run later."""
    graph: dict[str, set[str]] = {}
    for package in ALLOWED:
        for path in sources(package):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            graph[name] = {found for found in top_level_imports(path) if found.split(".")[0] in OWN} - {name}

    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' -> '.join([*trail, name])}"
        if name not in done:
            for target in sorted(graph.get(name, ())):
                visit(target, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def top_level_imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names
