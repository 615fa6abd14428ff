"""Every public method of an openai client's resources, found by looking, and arguments that will do for it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from openai import _resource

_RESOURCES = (_resource.SyncAPIResource, _resource.AsyncAPIResource)
_VERB_AND_PATH = re.compile(r'self\._(get|post|delete|put|patch|get_api_list)\(\s*(?:path_template\(\s*)?f?"/([^"?]+)')
_MISSING = re.compile(r"Expected either \(([^)]*)\)")


class Method(NamedTuple):
    """``name`` from the client on: ``chat.completions.create``."""

    name: str
    function: Callable[..., Any]

    @property
    def request(self) -> str | None:
        """What its source says that it asks for: ``get files/{id}``. None if it leaves that to other methods."""
        source = inspect.getsource(self.function)
        found = _VERB_AND_PATH.search(source)
        if found is None:
            return None
        verb = found[1]
        if verb == "get_api_list":
            verb = "post" if 'method="post"' in source else "get"
        return f"{verb} {re.sub('{[^}]*}', '{id}', found[2])}"

    def call(self, **given: Any) -> Any:
        """Call it; what it needs and is not ``given`` is made up. Where one of several sets will do, it says so."""
        arguments = {**self._needed(), **given}
        try:
            return self.function(**arguments)
        except TypeError as error:
            alternatives = _MISSING.search(str(error))
            if alternatives is None:
                raise
            names = re.findall(r"'(\w+)'", alternatives[1])
            parameters = inspect.signature(self.function).parameters
            return self.function(**{**{name: _made_up(parameters[name]) for name in names}, **arguments})

    def _needed(self) -> dict[str, Any]:
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: _made_up(p) for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD}


def methods(client: Any) -> Iterator[Method]:
    """All of them, of nested resources too."""
    for path, resource in _resources(client, ""):
        for name, _ in inspect.getmembers(type(resource), inspect.isfunction):
            if not name.startswith(("_", "with_")) and name not in vars(_RESOURCES[0]) | vars(_RESOURCES[1]):
                yield Method(f"{path}{name}", getattr(resource, name))


def _resources(owner: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name in dir(owner):
        if not name.startswith(("_", "with_")):
            resource = getattr(owner, name)
            if isinstance(resource, _RESOURCES):
                yield f"{path}{name}.", resource
                yield from _resources(resource, f"{path}{name}.")


def _made_up(parameter: inspect.Parameter) -> Any:
    """A value of the kind; ids have neither digits nor dashes, so that nothing gives them away."""
    kind = str(parameter.annotation)
    is_many = kind.startswith(("Iterable", "Sequence", "List"))
    if "FileTypes" in kind:
        return [("a.txt", b"x")] if is_many else ("a.txt", b"x")
    if "PathLike" in kind:
        return Path(__file__)
    if is_many:
        return []
    if kind == "int":
        return 1
    return f"any{parameter.name}one".replace("_", "") if "str" in kind or "Literal" in kind else {}
