"""What the app gets instead of an error: a value, what a function returns, or another target's answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: Mistakes of the caller: a fallback would hide a bug. They pass through unless they are asked for by name.
BUGS = (TypeError, ValueError, AttributeError, LookupError, NameError, AssertionError, NotImplementedError)

_UNSET: Any = object()


@dataclass(frozen=True)
class Fallback:
    """Taken once a call has failed for good. Exactly one of the first three is given.

    Attributes:
        value: handed to the app as it is.
        function: called with the error; what it returns is the result (awaited in an asynchronous call if it can be).
            What it raises reaches the app.
        endpoint: base URL of another server that speaks the same protocol; the call is made there, protected as any
            call to that target is, but without a fallback of its own. The client's own credentials are not sent there.
        headers: sent to the endpoint: its ``Authorization``, ``api-key``, whatever it asks for.
        on: the errors it is for: a type, types, or a function that says yes or no. By default those that speak of the
            target: failures, rate limits and refusals; never an answer of a healthy server (a 404) or a caller's bug.

    Raises:
        ValueError: unless exactly one of value, function and endpoint is given.
    """

    value: Any = _UNSET
    function: Callable[[Exception], Any] | None = None
    endpoint: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    on: type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool] | None = None

    def __post_init__(self) -> None:
        given = [self.value is not _UNSET, self.function is not None, self.endpoint is not None]
        if sum(given) != 1:
            raise ValueError(f"Fallback takes exactly one of value, function and endpoint, not {sum(given)} of them")
        if self.endpoint is not None and "://" not in self.endpoint:
            raise ValueError(f"Fallback.endpoint={self.endpoint!r} is not a URL such as https://host/v1")
        if self.headers and self.endpoint is None:
            raise ValueError("Fallback.headers are sent to an endpoint, and none is given")

    @property
    def kind(self) -> str:
        """``value``, ``function`` or ``endpoint``."""
        if self.function is not None:
            return "function"
        return "endpoint" if self.endpoint is not None else "value"

    def covers(self, error: Exception, *, speaks_of_the_target: bool) -> bool:
        """Whether it is taken for this error."""
        if self.on is None:
            return speaks_of_the_target
        if not isinstance(self.on, (tuple, type)):
            return bool(self.on(error))
        types = self.on if isinstance(self.on, tuple) else (self.on,)
        if isinstance(error, BUGS):  # ``Exception`` does not ask for them, ``ValueError`` does
            return any(isinstance(error, wanted) and issubclass(wanted, BUGS) for wanted in types)
        return isinstance(error, types)
