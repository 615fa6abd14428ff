"""Tests without sockets (but for the exporters' guards) and without waiting: time is a virtual clock's."""
