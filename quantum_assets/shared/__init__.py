"""What the assets share: rows and partitions, the inputs of others, what the pages of Dagster show, and pictures."""
