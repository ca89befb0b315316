"""Steps of the past, computed again: what stood between them, and how a result differs from its record."""
