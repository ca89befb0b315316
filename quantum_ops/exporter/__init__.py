"""What the exporter shows to Prometheus."""
