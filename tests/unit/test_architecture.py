"""Dependencies point one way: who imports whom is read from the sources, imports inside functions included."""

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: Package -> those of ours that it may import, itself aside.
MAY_IMPORT: dict[str, set[str]] = {
    "cli": {"demo", "podctl", "simulator", "worker", "workflows", "remote", "domain"},
    "demo": {"podctl", "simulator", "domain"},
    "podctl": {"workflows", "remote", "domain"},
    "worker": {"podctl", "workflows", "activities", "remote", "domain"},
    "activities": {"workflows", "remote", "domain"},
    "workflows": {"domain"},
    "remote": {"domain"},
    "simulator": set(),
    "podlet": set(),
    "domain": set(),
}

#: Package -> other people's packages that it must not know of.
MUST_NOT_IMPORT = {
    "domain": {"temporalio", "asyncssh", "typer", "rich"},
    "workflows": {"asyncssh", "httpx", "typer", "rich"},
    "activities": {"typer", "rich"},
    "podctl": {"typer"},
}


#: What a replay would not see again: nothing that runs inside a workflow may ask for it.
NOT_REPLAYED = {"os", "random", "secrets", "socket", "subprocess", "threading", "time", "uuid"}


def sources(package: str) -> list[Path]:
    module = ROOT / f"{package}.py"
    return [module] if module.exists() else sorted((ROOT / package).rglob("*.py"))


def imports(source: Path) -> Iterator[tuple[str, str]]:
    """Yield (top-level package, place) of every import in a file."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}:{node.lineno}: a relative import"
            names = [node.module or ""]
        for name in names:
            assert isinstance(node, ast.stmt)
            yield name.partition(".")[0], f"{source.relative_to(ROOT)}:{node.lineno}"


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    assert sources(package)
    others = set(MAY_IMPORT) - MAY_IMPORT[package] - {package}
    forbidden = others | MUST_NOT_IMPORT.get(package, set())
    assert [
        f"{place} imports {name}" for source in sources(package) for name, place in imports(source) if name in forbidden
    ] == []


def test_activities_know_of_workflows_only_their_names_and_messages() -> None:
    allowed = {"workflows.names", "workflows.messages", "workflows.timeouts"}
    found = set()
    for source in sources("activities"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "workflows":
                found |= {f"workflows.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("workflows."):
                found.add(node.module)
    assert found <= allowed


def test_the_podlet_needs_nothing_but_the_standard_library() -> None:
    strangers = [
        f"{place} imports {name}"
        for source in sources("podlet")
        for name, place in imports(source)
        if name not in sys.stdlib_module_names
    ]
    assert strangers == []


def test_every_package_of_ours_is_held_by_these_rules_and_installed() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages == set(MAY_IMPORT) - {"worker"}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(f'"{package}"' in project for package in MAY_IMPORT)


@pytest.mark.parametrize("package", ["domain", "workflows"])
def test_what_runs_in_workflows_asks_neither_clock_nor_chance(package: str) -> None:
    assert [
        f"{place} imports {name}"
        for source in sources(package)
        for name, place in imports(source)
        if name in NOT_REPLAYED
    ] == []
    clocks = ("datetime.now(", "datetime.utcnow(", "date.today(")
    assert [
        f"{source.relative_to(ROOT)} asks {clock}"
        for source in sources(package)
        for clock in clocks
        if clock in source.read_text(encoding="utf-8")
    ] == []


def test_no_module_of_the_command_line_imports_one_that_imports_it() -> None:
    """Circles, however long, imports inside functions included."""
    imported: dict[str, set[str]] = {}
    for source in sources("cli"):
        names: set[str] = set()
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        imported[f"cli.{source.stem}"] = names
    graph = {module: names & set(imported) for module, names in imported.items()}
    assert tuple(TopologicalSorter(graph).static_order())
