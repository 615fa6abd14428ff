"""``import stormproof.auto`` as an app's first line does what ``opentelemetry-instrument`` does. Never raises."""

import stormproof

stormproof.instrument()
