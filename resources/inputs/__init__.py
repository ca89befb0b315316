"""What other programs write, read and judged."""
