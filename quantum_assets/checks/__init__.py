"""The proof pack: every claim the product makes of its numbers, as a check that can fail.

``proof`` says what a proof and a verdict are, ``evidence`` reads what they are judged by (once for all symbols),
``reference`` is the second, plain implementation of every formula, ``pack`` runs everything, ``asset_checks`` reports to Dagster;
one module per asset holds its proofs. Formulas of the product and key names stay where they are.
"""
