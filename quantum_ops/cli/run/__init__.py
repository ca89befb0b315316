"""Commands that start something: the deployment, one of its processes, one cycle."""
