"""Beside other instrumentations of the same clients, and below frameworks. Run by ``make test-beside``."""
