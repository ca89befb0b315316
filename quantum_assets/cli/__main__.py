"""``python -m quantum_assets.cli``: the command without its installed script."""

from quantum_assets.cli import main

main()
