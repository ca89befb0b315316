"""One small program per peer (``benchmarks/peers.py``): each calls the same calculation at its own trigger."""
