"""Redis: tables in and out, the lease, and what is kept beside the tables."""
