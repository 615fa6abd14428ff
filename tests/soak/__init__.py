"""Ten thousand operations of each client; ``make test-soak``."""
