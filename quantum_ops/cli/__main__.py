"""``python -m quantum_ops.cli``: the command without its installed script."""

from quantum_ops.cli import main

main()
