"""Other instrumentations that put back what they found where we have spliced in.

One that came before us found the bare function: when it goes, it would take us out with it. One that came after us
found ours: if it goes after us, it would bring us back. So whenever one goes, the places are looked at.
"""

from __future__ import annotations

from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from stormproof.clients.patching import Splice, Splices, harmless


class Neighbours:
    """Watches every instrumentor's ``uninstrument`` while there is something of ours, or something may come back."""

    def __init__(self) -> None:
        self._here: list[Splices] = []
        self._gone: dict[tuple[Any, str], Splice] = {}  # others were around them when we went
        self._watch = Splices()

    def enter(self, splices: Splices) -> None:
        """These are in place."""
        self._here.append(splices)
        if not self._watch:
            self._watch.add(BaseInstrumentor, "uninstrument", self._uninstrument)

    def leave(self, splices: Splices) -> None:
        """Take these out, for good."""
        self._here.remove(splices)
        places = list(splices.splices)
        splices.remove()
        self._gone.update({(splice.owner, splice.name): splice for splice in places})
        self._forget()

    def _uninstrument(self, original: Any, instrumentor: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return original(instrumentor, *args, **kwargs)
        finally:
            harmless(self._look, otherwise=None)

    def _look(self) -> None:
        for splice in self._gone.values():
            splice.take_out()
        for splices in self._here:
            splices.renew()
        self._forget()

    def _forget(self) -> None:
        """What nobody is around any longer, nobody can bring back."""
        self._gone = {place: splice for place, splice in self._gone.items() if splice.is_wrapped}
        if not self._here and not self._gone:
            self._watch.remove()
