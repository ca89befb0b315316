"""The processes of a stack, and what keeps them together."""
