"""The real clients, over real sockets, against stand-ins that speak their wires, with faults on the way."""
