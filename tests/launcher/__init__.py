"""Whole programs under the real launcher, each in a process of its own."""
