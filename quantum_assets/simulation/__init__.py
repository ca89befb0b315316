"""A seeded simulation of cycles under faults: the functions of the product on a virtual clock, without Redis and Dagster.

The world writes what other programs write, and spoils some of it; a memory answers reads as the server does; the cycle computes,
publishes and decides; invariants are checked after each step. One seed gives one run, on every machine.
"""
