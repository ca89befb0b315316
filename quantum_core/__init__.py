"""What all stand on: contracts, kernels, settings, ages. No Dagster, no Redis, nothing else of ours."""
