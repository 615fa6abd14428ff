"""Every place in a module that adds something to the telemetry, and the module without one of them.

Found by what the code looks like, wherever it stands: an item of a dict under a name of ``telemetry/names.py`` or under
a fact, an assignment to such a key, a statement that emits, an argument of something emitted, an instrument.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeGuard

#: Calls that add to a span, record a measurement or emit a log record.
_EMITTING = frozenset(
    ("add_event", "add_link", "annotate", "emit", "record", "set_attribute", "set_attributes", "set_status")
)
#: What of its arguments ends up at the far end, by the call's name.
_TOLD = {
    "Call": ("facts",),
    "LogRecord": ("timestamp", "event_name", "severity_number", "severity_text", "body", "attributes", "context"),
    "create_histogram": ("explicit_bucket_boundaries_advisory",),
    "start_span": ("context", "kind", "attributes", "links"),
}
#: In place of an instrument or a span that is left out.
_NOTHING = "__import__('unittest.mock').mock.MagicMock()"


@dataclass(frozen=True)
class Language:
    """What the code says when it emits.

    Attributes:
        facts: what clients tell of a call.
        emitters: functions in which something is emitted, or made that is.
    """

    facts: frozenset[str]
    emitters: frozenset[str] = frozenset()

    @classmethod
    def of(cls, codes: Iterable[str]) -> Language:
        """That of these modules, one of which has the table of facts."""
        nodes = [node for code in codes for node in ast.walk(ast.parse(code))]
        functions = [node for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
        language, before = cls(frozenset().union(*map(_facts_of, nodes))), None
        while language != before:
            emitters = frozenset(each.name for each in functions if _emits(each, language))
            before, language = language, cls(language.facts, emitters)
        return language


def emissions(code: str, language: Language) -> list[str]:
    """Where something is emitted: line, function and what it is."""
    module = _Module(language, None)
    module.visit(ast.parse(code))
    return module.found


def without(code: str, number: int, language: Language) -> str:
    """The code without the emission of this number."""
    tree = _Module(language, number).visit(ast.parse(code))
    return ast.unparse(ast.fix_missing_locations(tree))


def _facts_of(node: ast.AST) -> frozenset[str]:
    """The keys of the table called FACTS, if it is that."""
    if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "FACTS" and isinstance(node.value, ast.Dict):
        return frozenset(str(key.value) for key in node.value.keys if isinstance(key, ast.Constant))
    return frozenset()


def _emits(function: Any, language: Language) -> bool:
    if function.name.startswith("__"):  # its class is called by another name
        return False
    module = _Module(language, None)
    module.generic_visit(copy.deepcopy(function))
    return bool(module.found)


class _Module(ast.NodeTransformer):
    """Notes every emission that it comes by, in an order that is always the same, and takes one of them out."""

    def __init__(self, language: Language, wanted: int | None) -> None:
        self.found: list[str] = []
        self._facts, self._emitters = language.facts, language.emitters
        self._wanted = wanted
        self._inside: list[str] = []

    def _is_left_out(self, node: Any, what: ast.AST | str) -> bool:
        text = what if isinstance(what, str) else ast.unparse(what)
        self.found.append(f"{node.lineno} {'.'.join(self._inside)}: {' '.join(text.split())[:90]}")
        return len(self.found) - 1 == self._wanted

    def visit_FunctionDef(self, node: Any) -> Any:
        self._inside.append(node.name)
        self.generic_visit(node)
        self._inside.pop()
        return node

    visit_AsyncFunctionDef = visit_ClassDef = visit_FunctionDef

    # -- attributes and facts ------------------------------------------------------------------------------------------

    def visit_Dict(self, node: ast.Dict) -> Any:
        items = [
            (key, value)
            for key, value in zip(node.keys, node.values, strict=True)
            if not (key is not None and self._is_told(key) and self._is_left_out(key, f"{ast.unparse(key)}: …"))
        ]
        node.keys, node.values = [key for key, _ in items], [value for _, value in items]
        return self.generic_visit(node)

    def visit_DictComp(self, node: ast.DictComp) -> Any:
        if self._is_told(node.key) and self._is_left_out(node, node):
            return ast.Dict([], [])
        return self.generic_visit(node)

    def visit_Tuple(self, node: Any) -> Any:
        """Pairs of a key and a value, and lists of nothing but facts."""
        if isinstance(node.ctx, ast.Load):
            are_facts = len(node.elts) > 1 and all(self._is_fact(each) for each in node.elts)
            node.elts = [
                each for each in node.elts if not ((are_facts or self._is_pair(each)) and self._is_left_out(each, each))
            ]
            node.elts = [self._visit_pair(each) for each in node.elts]
        return node

    visit_List = visit_Tuple

    def _visit_pair(self, node: Any) -> Any:
        """Not as what it may look like itself: nothing but facts."""
        if not self._is_pair(node):
            return self.visit(node)
        node.elts = [node.elts[0], *map(self.visit, node.elts[1:])]
        return node

    def visit_Assign(self, node: ast.Assign) -> Any:
        (target,) = node.targets[:1]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            kept = [
                (each, value)
                for each, value in zip(target.elts, node.value.elts, strict=True)
                if not (self._is_told_at(each) and self._is_left_out(each, each))
            ]
            target.elts, node.value.elts = [each for each, _ in kept], [value for _, value in kept]
        elif self._is_told_at(target) and self._is_left_out(node, target):
            return ast.Pass()
        return self.generic_visit(node)

    # -- calls ---------------------------------------------------------------------------------------------------------

    def visit_Expr(self, node: ast.Expr) -> Any:
        call = node.value
        if isinstance(call, ast.Call):
            if self._is_emission(call) and self._is_left_out(node, call):
                return ast.Pass()
            self._visit_arguments(call)
        return node

    def visit_Call(self, node: ast.Call) -> Any:
        """One whose result is used."""
        name = _name_of(node)
        if self._is_emitter(node) and self._is_left_out(node, node):
            return ast.Dict([], [])
        if name not in ("start_span", "getattr", "get") and _names_something(node):
            if _is_name(node.args[-1]):  # an option of what is made
                if self._is_left_out(node, f"{name}(…, {ast.unparse(node.args[-1])})"):
                    del node.args[-1]
            elif self._is_left_out(node, node):
                return ast.parse(_NOTHING, mode="eval").body
        self._visit_arguments(node)
        return node

    def _visit_arguments(self, node: ast.Call) -> None:
        name = _name_of(node)
        told = _TOLD.get(name, ())
        node.keywords = [
            each
            for each in node.keywords
            if not (
                each.arg in told
                and not self._is_emitter(each.value)  # which is left out itself
                and self._is_left_out(each, f"{name}({each.arg}=…)")
            )
        ]
        self.generic_visit(node)

    # -- what the parts are --------------------------------------------------------------------------------------------

    def _is_emission(self, call: ast.Call) -> bool:
        name = _name_of(call)
        is_about_facts = name == "update" and "facts" in ast.unparse(call.func)
        return name in _EMITTING or name in self._emitters or is_about_facts or _names_something(call)

    def _is_emitter(self, node: ast.AST) -> bool:
        """Whether it is a call that makes what is emitted."""
        return isinstance(node, ast.Call) and _name_of(node) in self._emitters - _EMITTING

    def _is_fact(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Constant) and node.value in self._facts

    def _is_told(self, key: ast.AST) -> bool:
        """Whether a value under this key is an attribute, a fact, or a hook of the HTTP instrumentation."""
        is_hook = isinstance(key, ast.Constant) and str(key.value).endswith("_hook")
        return is_hook or self._is_fact(key) or any(map(_is_name, ast.walk(key)))

    def _is_told_at(self, target: ast.AST) -> bool:
        if not isinstance(target, ast.Subscript):
            return False
        is_facts = isinstance(target.value, (ast.Name, ast.Attribute)) and ast.unparse(target.value).endswith("facts")
        return is_facts or self._is_told(target.slice)

    def _is_pair(self, node: ast.AST) -> TypeGuard[ast.Tuple]:
        """A tuple of a name or fact with what belongs to it."""
        if not isinstance(node, ast.Tuple) or len(node.elts) == 1:
            return False
        return any(_is_name(each) or self._is_fact(each) for each in node.elts[:1])


def _is_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "names"


def _names_something(call: ast.Call) -> bool:
    return any(map(_is_name, call.args))


def _name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
