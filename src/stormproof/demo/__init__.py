"""Stand-ins that speak the services' real wire, a proxy that injects faults, and a sink for OTLP."""
