"""Who may import whom, what is public, and what the built distributions contain."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "naflow_core": ROOT / "naflow_core",
    "naflow_cli": ROOT / "clients" / "cli" / "naflow_cli",
    "naflow_client": ROOT / "clients" / "python" / "naflow_client",
}
DISTRIBUTIONS = {
    ROOT: {"naflow_core/py.typed", "naflow_core/__init__.py", "naflow_cli/main.py", "naflow_server/app.py"},
    ROOT / "clients" / "python": {
        "naflow_client/py.typed",
        "naflow_client/__init__.py",
        "naflow/v1/py.typed",
        "naflow/v1/explanation_pb2.py",
    },
}


def imported(source: str) -> set[str]:
    """Full names of the modules that a piece of source imports, wherever in it the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def importers(folder: Path, package: str) -> list[str]:
    """The files under a folder that import a package or anything in it."""
    return [
        str(path.relative_to(ROOT))
        for path in sorted(folder.rglob("*.py"))
        if any(f"{name}.".startswith(f"{package}.") for name in imported(path.read_text(encoding="utf-8")))
    ]


def public_modules() -> list[str]:
    """Every module of ours that declares `__all__`, found without importing anything."""
    names = []
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            targets = [t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
            if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
                inside = path.relative_to(folder).with_suffix("").parts
                names.append(".".join([package, *(part for part in inside if part != "__init__")]))
    return names


def test_import_contracts_hold() -> None:
    beside = str(Path(sys.executable).parent)
    program = shutil.which("lint-imports", path=beside) or shutil.which("lint-imports")
    if program is None:
        pytest.skip("import-linter is not installed (pip install 'naflow[test]')")
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nested_imports_are_seen() -> None:
    """The scan below must not be fooled by an import inside a function."""
    assert imported("def f():\n    import grpc.aio\n    from google.rpc import code_pb2") == {
        "grpc.aio",
        "google.rpc",
    }


@pytest.mark.parametrize("package", ["grpc", "google.rpc", "naflow_client", "naflow_cli", "naflow_server"])
def test_the_core_knows_nothing_of_transport_or_of_its_users(package: str) -> None:
    assert importers(PACKAGES["naflow_core"], package) == []


@pytest.mark.parametrize("package", ["jax", "onnx", "onnxruntime", "naflow_core", "naflow_server"])
def test_the_client_stays_small(package: str) -> None:
    assert importers(PACKAGES["naflow_client"], package) == []


def test_nobody_imports_the_command_line() -> None:
    others = [ROOT / name for name in ("naflow_core", "clients/python", "server", "examples", "benchmarks")]
    assert [path for folder in others for path in importers(folder, "naflow_cli")] == []


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_every_module_imports_and_says_what_it_is(package: str) -> None:
    for module in walk(package):
        assert module.__doc__, f"{module.__name__} has no docstring"


def walk(package: str) -> Iterator[object]:
    top = importlib.import_module(package)
    yield top
    for found in pkgutil.walk_packages(top.__path__, f"{package}."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def test_the_packages_export_something() -> None:
    assert {"naflow_core", "naflow_core.ops", "naflow_client"} <= set(public_modules())


@pytest.mark.parametrize("name", public_modules())
def test_public_names_exist_and_are_documented(name: str) -> None:
    module = importlib.import_module(name)
    exported = module.__all__
    assert len(set(exported)) == len(exported)
    for public in exported:
        thing = getattr(module, public)
        if inspect.isclass(thing) or inspect.isroutine(thing):
            own = thing.__doc__ or ""
            made_up = inspect.isclass(thing) and own.startswith(f"{thing.__name__}(")  # dataclass signature
            assert own, f"{name}.{public} has no docstring"
            assert not made_up, f"{name}.{public} has no docstring of its own"


def test_public_exceptions_share_one_base() -> None:
    core = importlib.import_module("naflow_core")
    for public in core.__all__:
        thing = getattr(core, public)
        if inspect.isclass(thing) and issubclass(thing, Exception):
            assert issubclass(thing, core.NaflowError), public


@pytest.mark.parametrize("project", DISTRIBUTIONS, ids=["naflow", "naflow-client"])
def test_the_wheel_is_complete(project: Path, tmp_path: Path) -> None:
    """Built without a network, so the build backend must be installed."""
    if util.find_spec("hatchling") is None or util.find_spec("pip") is None:
        pytest.skip("pip or hatchling is not installed (pip install 'naflow[test]')")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--no-index", "--wheel-dir", str(tmp_path), str(project)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert names >= DISTRIBUTIONS[project]
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {name.split("/")[0] for name in DISTRIBUTIONS[project]}
    assert not [name for name in names if "__pycache__" in name or name.split("/")[0] == "tests"]


def test_naflow_and_its_client_fit_together() -> None:
    main, client = (
        tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for folder in DISTRIBUTIONS
    )
    assert any(requirement.startswith("naflow-client") for requirement in main["dependencies"])
    assert main["version"] == client["version"]
    supported = [c for c in main["classifiers"] if c.startswith("Programming Language :: Python :: 3.")]
    assert supported == [f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)]


def test_the_command_is_installed() -> None:
    found = [entry for entry in metadata.entry_points(group="console_scripts") if entry.name == "naflow"]
    if not found:
        pytest.skip("naflow is not installed in this environment (make test installs it)")
    assert callable(found[0].load())
