"""Profiles: the parameters of all kernels under one name, as files, as text in Redis, and as what is in force."""
