"""Which way imports go: cli -> pipeline -> the rest of compressor -> passes, and solvers see arrays alone."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import onnx_ir as ir
import pytest

from compressor import catalog
from compressor.recipe import recipe

ROOT = Path(__file__).parents[1]
OURS = {
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__"): path
    for path in (ROOT / "cli.py", *ROOT.glob("compressor/**/*.py"), *ROOT.glob("passes/**/*.py"))
}
SOLVER_FAMILY = ("qtensor", "statistics", "rtn", "gptq", "machine.fused")
COMMANDS = ("arguments", "ending", "options", "places", "terminal")  # light, and all that every command starts with
HEAVY = ("torch", "onnxruntime", "transformers", "datasets", "onnx", "onnx_ir", "numpy", "pydantic")


def imports(module: str, *, at_start: bool = False) -> set[str]:
    """Full names of what a module imports; `at_start`: only what its import runs, types and functions left out."""
    tree = ast.parse(OURS[module].read_text(encoding="utf-8"))
    return {name for node in (_run_at_start(tree) if at_start else ast.walk(tree)) for name in _names(node)}


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "a relative import hides where it goes"
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            yield whole if whole in OURS else str(node.module)


def _run_at_start(tree: ast.Module) -> Iterator[ast.AST]:
    return (node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom)))


def within(prefix: str) -> list[str]:
    return [name for name in OURS if name == prefix or name.startswith(f"{prefix}.")]


def beyond_the_standard_library(names: set[str]) -> set[str]:
    return {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}


# --- the tables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", within("passes"))
def test_passes_import_the_graph_library_and_themselves(module: str) -> None:
    tops = {name.partition(".")[0] for name in beyond_the_standard_library(imports(module))}
    assert tops <= {"onnx", "onnx_ir", "onnxscript", "numpy", "passes"}


@pytest.mark.parametrize("name", SOLVER_FAMILY)
def test_solvers_see_arrays_and_never_graphs_nor_each_other(name: str) -> None:
    shared = {
        f"compressor.quantize.{one}"
        for one in ("qtensor", "statistics", "machine.threads", "machine.memory", "machine.fused", "machine.compiled")
    }
    assert beyond_the_standard_library(imports(f"compressor.quantize.{name}")) <= {"torch", *shared}


@pytest.mark.parametrize("name", ["linears", "segments", "flow"])
def test_the_graph_side_of_quantization_sees_no_solver(name: str) -> None:
    solvers = {f"compressor.quantize.{one}" for one in (*SOLVER_FAMILY, "solve")}
    assert not imports(f"compressor.quantize.flow.{name}") & solvers


@pytest.mark.parametrize(
    ("imported", "importers"),
    [
        ("cli", set()),
        ("compressor.pipeline", {"cli", "compressor.planning"}),
        ("compressor.stages.optimizing", {"cli", "compressor.stages.keys", "compressor.pipeline"}),
        # beside the stage that runs them: who asks what follows from a graph
        (
            "passes",
            {"compressor.stages.optimizing", "compressor.graph.value_types", "compressor.providers.graph_types"},
        ),
        ("compressor.stages.quantizing", {"compressor.pipeline"}),
        ("compressor.stages.methods", {"compressor.stages.quantizing"}),
        ("compressor.quantize.solve", {"compressor.stages.methods"}),
        ("compressor.export.causal_lm", set()),
        ("compressor.package.matmulnbits", {"compressor.package.embeddings"}),  # codes laid out alike
        ("compressor.package.qdq", {"compressor.package.qdq_embeddings"}),  # a head is a product like any other
    ],
)
def test_the_top_is_imported_by_few(imported: str, importers: set[str]) -> None:
    package = within(imported)
    found = {module for module in OURS if module not in package and imports(module) & set(package)}
    assert found == importers


def test_no_part_reaches_back_to_one_that_it_serves() -> None:
    """A part is a folder of compressor/ or passes/, or a file beside them; CycleError names the circle."""
    only_names = ("compressor.recipe.recipe", "compressor.export.tasks")
    reached: dict[str, set[str]] = {}
    for module in OURS:
        goals = {name for name in imports(module) if name in OURS and (module, name) != only_names}
        reached.setdefault(part(module), set()).update(part(name) for name in goals)
    graphlib.TopologicalSorter({one: goals - {one, "compressor", "passes"} for one, goals in reached.items()}).prepare()


def part(module: str) -> str:
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("module", within("compressor.validate"))
def test_checks_know_nothing_of_how_a_candidate_was_made(module: str) -> None:
    makers = {name for part in ("quantize", "package", "export") for name in within(f"compressor.{part}")}
    assert not imports(module) & makers


def test_one_file_prints() -> None:
    def prints(path: Path) -> bool:
        calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
        return any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls)

    assert [module for module, path in OURS.items() if prints(path)] == ["compressor.command.terminal"]


# --- nothing heavy before it is asked for ----------------------------------------------------------------------------


def test_the_command_line_starts_with_light_imports() -> None:
    started, waiting = set[str](), {"cli"}
    while waiting:
        started |= waiting
        reached = {name for module in waiting for name in imports(module, at_start=True)}
        waiting = beyond_the_standard_library(reached) - started
    light = {f"compressor.{name}" for name in ("errors", "report.tables")}
    assert started == {"cli", *light, *(f"compressor.command.{name}" for name in COMMANDS)}


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys, cli
try:
    cli.main(["--help"])
except SystemExit as end:
    assert end.code == 0
print("heavy:", [name for name in {HEAVY} if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "quantize" in result.stdout
    assert result.stdout.splitlines()[-1] == "heavy: []"


# --- the catalog -----------------------------------------------------------------------------------------------------


def test_every_line_of_the_catalog_resolves() -> None:
    assert all(issubclass(catalog.resolve(entry.where), ir.passes.PassBase) for entry in catalog.PASSES.values())
    assert all(callable(catalog.resolve(target)) for target in catalog.REWRITERS.values())
    assert all((catalog.resolve(target) / "config.json").is_file() for target in catalog.MODELS.values())


def test_the_recipe_names_what_the_catalog_holds() -> None:
    assert get_args(recipe.Target) == catalog.TARGETS
    known = set(catalog.METHODS) | set(catalog.PREPARATIONS)
    assert set(recipe.Quantize.model_fields) - {"exclude", "budget", "embeddings"} == known
    assert {served for methods in catalog.PREPARATIONS.values() for served in methods} <= set(catalog.METHODS)
    assert set(catalog.CALIBRATED) <= set(catalog.METHODS)


def test_a_target_chooses_its_passes_and_a_list_overrides_them() -> None:
    for target in catalog.TARGETS:
        made = recipe.build({"model": "x", "target": target})
        assert made.passes == tuple(name for name, entry in catalog.PASSES.items() if target in entry.targets)
    assert recipe.build({"model": "x", "optimize": {"passes": ["dropout-removal"]}}).passes == ("dropout-removal",)
