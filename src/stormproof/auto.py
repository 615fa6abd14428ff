"""``import stormproof.auto`` as an app's first line does what ``opentelemetry-instrument`` does. Never raises."""

from __future__ import annotations

import logging

import stormproof

try:
    stormproof.instrument()
except Exception:
    logging.getLogger("stormproof").warning("stormproof could not be switched on", exc_info=True)
