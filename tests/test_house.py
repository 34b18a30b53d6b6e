"""The directions in which modules import each other, as CONTRIBUTING.md says; and how long functions are."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[1] / "src"
MODELS = ("holistic", "pose", "tracking", "captioning")  # of the pipelines: what they share is in neutral rooms
SHARED = {("pose", "holistic")}  # one backend of poses is Holistic's pose
FORBIDDEN = {  # of modules that begin with a name: what they must not import, neither at the top nor in a function
    "datamodules": ["preprocess"],
    "datamodules.run": [
        *("torch", "lightning", "torchvision", "av"),
        *(f"datamodules.{room}" for room in ("loading", "training", "media", "corpora", "datamodule", "card")),
    ],
    "datamodules.corpora": [f"datamodules.{room}" for room in ("run", "loading", "training", "samples")],
    "datamodules.loading": ["datamodules.training", "datamodules.datamodule"],
    "datamodules.training": ["datamodules.loading", "datamodules.media", "datamodules.datamodule"],
    "datamodules.media": [f"datamodules.{room}" for room in ("run", "loading", "training", "corpora", "samples")],
    "datamodules.samples": [f"datamodules.{room}" for room in ("loading", "training", "corpora", "datamodule", "card")],
    "preprocess": ["preprocess.pipelines"],
    "preprocess.job": ["preprocess.commands", "preprocess.cli", "preprocess.export"],
    "preprocess.cluster": [f"preprocess.{room}" for room in ("commands", "cli", "export", *MODELS)],
    "preprocess.pipelines": ["preprocess.commands", "preprocess.cli", "preprocess.export"],
    **{
        f"preprocess.{room}": [
            f"preprocess.{other}" for other in MODELS if other != room and (room, other) not in SHARED
        ]
        for room in MODELS
    },
    **{
        f"preprocess.{shared}": [f"preprocess.{room}" for room in (*MODELS, "job")]
        for shared in ("checkpoints", "backend", "prompts", "device_copies", "float32", "gpu_errors", "mediapipe_graph")
    },
    **{
        f"preprocess.{room}": [f"preprocess.{other}" for other in ("commands", "cli", "job", "export", *MODELS)]
        for room in ("draw", "report")
    },
    "preprocess.export": ["preprocess.commands", "preprocess.cli", "preprocess.job"],
}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCES).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_in(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


@pytest.mark.parametrize("importer", FORBIDDEN)
def test_no_import_goes_upward(importer: str) -> None:
    modules = [path for path in SOURCES.rglob("*.py") if is_in(module_of(path), importer)]
    assert modules
    upward = [
        f"{module_of(path)} imports {name}"
        for path in modules
        for name in imports_of(path)
        for package in FORBIDDEN[importer]
        if is_in(name, package)
    ]
    assert upward == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    paths = {module_of(path): path for path in SOURCES.rglob("*.py")}

    def imported_modules(path: Path) -> set[str]:
        names = [(name, name.rpartition(".")[0]) for name in imports_of(path)]
        found = {next((name for name in both if name in paths), "") for both in names}
        return found - {"", module_of(path)}

    graph = {module: imported_modules(path) for module, path in paths.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(paths)  # raises CycleError for a circle


def test_no_function_exceeds_50_lines() -> None:
    lengths = {
        f"{module_of(path)}.{node.name}": node.end_lineno - node.lineno + 1
        for path in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    }
    assert {name: length for name, length in lengths.items() if length > 50} == {}
