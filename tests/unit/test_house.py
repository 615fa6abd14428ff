"""The rules of the house (DESIGN.md), read off the imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import stormproof

ROOT = Path(stormproof.__file__).parent
CLIENTS = ("openai", "ollama", "qdrant_client")


def imports(path: Path, *, everywhere: bool) -> Iterator[str]:
    """What a file imports: everywhere, or only when it is itself imported."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if everywhere else _at_import(tree.body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def _at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        for part in ("body", "orelse", "handlers", "finalbody"):
            yield from _at_import(getattr(node, part, []))


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).glob("*.py"))


@pytest.mark.parametrize("path", files("resilience"), ids=lambda path: path.stem)
def test_resilience_knows_nothing_above_it(path: Path) -> None:
    ours = [name for name in imports(path, everywhere=True) if name.startswith("stormproof")]
    assert all(name.startswith("stormproof.resilience") for name in ours)
    for other in ("opentelemetry", *CLIENTS, "httpx", "socket"):
        assert not [name for name in imports(path, everywhere=True) if name.split(".")[0] == other]


@pytest.mark.parametrize("path", files("clients"), ids=lambda path: path.stem)
def test_clients_know_no_telemetry_and_import_no_client_too_early(path: Path) -> None:
    assert not [name for name in imports(path, everywhere=True) if name.startswith("stormproof.telemetry")]
    assert not [name for name in imports(path, everywhere=False) if name.split(".")[0] in CLIENTS]


@pytest.mark.parametrize("path", files("telemetry"), ids=lambda path: path.stem)
def test_names_stand_in_one_file(path: Path) -> None:
    if path.stem == "names":
        return
    strings = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
    begun = ("resilience.", "gen_ai.", "db.", "http.request", "http.response", "server.", "error.type")
    assert [text for text in strings if isinstance(text, str) and text.startswith(begun)] == []


def test_only_one_file_knows_stamina() -> None:
    users = {path.stem for path in ROOT.rglob("*.py") if "stamina" in imports(path, everywhere=True)}
    assert users == {"loop"}


def test_what_is_imported_for_a_start_is_light() -> None:
    code = "import stormproof, stormproof.install, stormproof.distro, sys; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {*CLIENTS, "stamina", "tenacity", "pydantic", "httpx", "httpx2", "trio"}
    # What runs a call comes with the first client.
    late = ("resilience.runner", "resilience.adaptive", "resilience.window", "telemetry.spans", "telemetry.metrics")
    assert not loaded & {f"stormproof.{name}" for name in late}
