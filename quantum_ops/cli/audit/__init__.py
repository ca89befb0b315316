"""Commands of the auditor: settings, keys, the installation, the proofs."""
