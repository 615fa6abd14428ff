"""``stormproof.breakers``: the targets of this process, to look at and to steer by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stormproof.resilience.targets import Target


class Breakers(Mapping[str, "Target"]):
    """Targets by name (``openai/api.openai.com:443``), as they are at the moment of asking.

    A target is there from its first call on. Each has ``.snapshot()``, ``.force_open()``, ``.close()``, ``.disable()``
    and ``.reset()``. Safe for concurrent use.

    Raises:
        KeyError: for a target that has not been used; it names those that have.
    """

    def __getitem__(self, name: str) -> Target:
        known = self._targets()
        try:
            return known[name]
        except KeyError:
            raise KeyError(f"{name!r} is not a target in use; these are: {', '.join(known) or 'none yet'}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets())

    def __len__(self) -> int:
        return len(self._targets())

    def __repr__(self) -> str:
        states = (f"{name}: {target.breaker.state.value}" for name, target in self._targets().items())
        return f"<Breakers {', '.join(states) or 'none yet'}>"

    def _targets(self) -> dict[str, Target]:
        from stormproof import install

        return {target.name: target for target in install.targets()}
