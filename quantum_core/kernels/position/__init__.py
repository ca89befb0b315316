"""The open position: which one it is, what is remembered of it, and whether its numbers belong together."""
