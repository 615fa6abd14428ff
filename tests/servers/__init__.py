"""Servers for the tests: a real Ollama, and the tests of the stand-ins themselves."""
