"""The one clock: monotonic seconds, so that a wall clock set back can neither open nor hold a breaker."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Returns monotonic seconds. Unit tests inject a virtual one.
Clock = Callable[[], float]

monotonic: Clock = time.monotonic
