"""The proofs, by the asset they judge."""
