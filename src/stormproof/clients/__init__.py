"""Where each client is spliced, what its failures mean, what is known of its calls. Never imports telemetry."""
