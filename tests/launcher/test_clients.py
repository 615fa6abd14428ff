"""A client that is too old, has changed, or cannot be spliced into: one line; all else is as without us."""

from __future__ import annotations

from pathlib import Path

import pytest

from .launch import Result
from .world import CHAT, WAYS_IN, World

_OLLAMA = ">=0.3.3,<1"


def _distribution(folder: Path, name: str, version: str) -> str:
    """Let a distribution appear in this version; what is imported stays what is installed."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    return str(folder)


def _module(folder: Path, name: str, source: str) -> None:
    path = folder / f"{name.replace('.', '/')}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")


def _assert_warned(result: Result, client: str, reason: str) -> None:
    (notice,) = [line for line in result.notices if "WARNING" in line]
    assert notice.startswith(f"stormproof: WARNING: {client} is not protected: ")
    assert reason in notice
    assert "; pip install '" in notice
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("version", "way"), [*(("0.1.0", way) for way in WAYS_IN), ("1.0.0", "launcher")])
def test_a_version_out_of_range_is_left_alone(world: World, tmp_path: Path, version: str, way: str) -> None:
    assert world.ollama.url
    assert world.sink.url
    path = _distribution(tmp_path / "old", "ollama", version)
    result = world.run(CHAT, way=way, PYTHONPATH=path)
    assert (result.code, result.stdout) == (0, "A socket is an end.\n")
    _assert_warned(result, "ollama", f"version {version} is outside {_OLLAMA}; pip install 'ollama{_OLLAMA}'")
    assert f"ollama {version[:3]} ✗" in result.said[0]
    assert "chat m" not in {span.name for span in world.sink.spans}


def test_left_alone_means_without_retries(world: World, tmp_path: Path) -> None:
    world.stumble(world.ollama)
    result = world.run(CHAT, PYTHONPATH=_distribution(tmp_path / "old", "ollama", "0.1.0"))
    assert result.code == 1
    assert world.ollama.count("POST", "/api/chat") == 1


def test_a_version_is_compared_as_a_version(world: World, tmp_path: Path) -> None:
    """0.10 is newer than 0.3.3, and a pre-release of what is in range is in range."""
    world.stumble(world.ollama)
    result = world.run(CHAT, PYTHONPATH=_distribution(tmp_path / "new", "ollama", "0.10.0rc1"))
    assert result.code == 0
    assert not [line for line in result.notices if "WARNING" in line]


@pytest.mark.parametrize("way", WAYS_IN)
def test_a_client_that_has_lost_what_is_spliced_into(world: World, tmp_path: Path, way: str) -> None:
    path = _distribution(tmp_path / "other", "ollama", "0.9.0")
    _module(tmp_path / "other", "ollama.__init__", "from ollama._client import answer")
    _module(tmp_path / "other", "ollama._client", "answer = 42")
    result = world.run("import ollama\nprint(ollama.answer)", way=way, PYTHONPATH=path)
    assert (result.code, result.stdout) == (0, "42\n"), result.stderr
    _assert_warned(result, "ollama", "AttributeError")


def test_a_hook_of_ours_that_raises(world: World) -> None:
    assert world.ollama.url
    broken = """
    import stormproof.clients.ollama
    def patch(*args):
        raise RuntimeError("a fault of ours")
    stormproof.clients.ollama.patch = patch
    """
    result = world.run(broken, CHAT)
    assert (result.code, result.stdout) == (0, "A socket is an end.\n")
    _assert_warned(result, "ollama", "RuntimeError: a fault of ours")


def test_a_client_that_has_no_distribution(world: World, tmp_path: Path) -> None:
    """Copied into the program, say: its version cannot be told."""
    _module(tmp_path / "vendored", "qdrant_client.__init__", "import qdrant_client.qdrant_remote")
    _module(tmp_path / "vendored", "qdrant_client.qdrant_remote", "answer = 42")
    info = tmp_path / "vendored" / "qdrant_client-1.0.dist-info"
    info.mkdir()
    result = world.run(
        "import qdrant_client\nprint(qdrant_client.qdrant_remote.answer)", PYTHONPATH=str(tmp_path / "vendored")
    )
    assert (result.code, result.stdout) == (0, "42\n"), result.stderr
    assert "Traceback" not in result.stderr


def test_an_http_instrumentation_that_fails(world: World, tmp_path: Path) -> None:
    """The program's import of its client goes on, protected; the line says what is missing."""
    world.stumble(world.ollama)
    assert world.sink.url
    _module(tmp_path / "broken", "opentelemetry.instrumentation.httpx", "raise RuntimeError('no such thing')")
    result = world.run(CHAT, PYTHONPATH=str(tmp_path / "broken"))
    assert (result.code, result.stdout) == (0, "A socket is an end.\n"), result.stderr
    (notice,) = result.notices
    assert "WARNING: no HTTP spans: no such thing; pip install" in notice
    assert {"chat m", "attempt chat"} == {span.name for span in world.sink.spans}
