"""The pages that list names must list all of them, with the defaults that are in force."""

from __future__ import annotations

from pathlib import Path

import pytest

from stormproof import settings
from stormproof.resilience.outcome import GaveUp
from stormproof.telemetry import names, sdk

DOCS = Path(__file__).parents[2] / "docs"
SETTINGS = (DOCS / "settings.md").read_text()
TELEMETRY = (DOCS / "telemetry.md").read_text()

#: Emitted names: every string constant with a dot in it, but for the schema's address.
EMITTED = sorted(
    {value for key, value in vars(names).items() if key.isupper() and isinstance(value, str) and "." in value}
    | set(names.FACTS.values())
)


@pytest.mark.parametrize("name", [name for name in EMITTED if "://" not in name])
def test_every_emitted_name_is_documented(name: str) -> None:
    """In full, or as ``.last_word`` behind the name it shares its beginning with."""
    assert f"`{name}`" in TELEMETRY or f"`.{name.rpartition('.')[2]}`" in TELEMETRY


@pytest.mark.parametrize("reason", GaveUp)
def test_every_reason_to_give_up_is_documented(reason: GaveUp) -> None:
    assert f"`{reason.value}`" in TELEMETRY


@pytest.mark.parametrize("key", settings.KEYS)
def test_every_setting_is_documented_with_its_default(key: str) -> None:
    variable = f"STORMPROOF__{key.upper().replace('.', '__')}"
    [row] = [line for line in SETTINGS.splitlines() if line.startswith(f"| `{key}` | `{variable}` |")]
    part, _, name = key.rpartition(".")
    policy = settings.from_environment({}).policy_for("openai")
    default = getattr(getattr(policy, part) if part else policy, name)
    shown = row.split("|")[3].strip().strip("`").split("`")[0]
    if default is None:
        assert shown == "the client's own"
    elif isinstance(default, bool):
        assert shown == str(default).lower()
    else:
        assert float(shown.rstrip("s")) == default


@pytest.mark.parametrize("variable", [*settings._PROCESS_KEYS, *sdk.DEFAULTS])
def test_every_variable_of_the_process_is_documented(variable: str) -> None:
    assert f"`{variable}`" in SETTINGS
