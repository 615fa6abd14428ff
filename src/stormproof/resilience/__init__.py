"""Decides what happens to a call: permit, attempts, waits, outcome. Pure: no OpenTelemetry, no client, no I/O."""
