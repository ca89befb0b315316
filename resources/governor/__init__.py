"""The governor: takes plans, judges them, records each decision once, and ends what a person ends.

=================  ======================================================================================
``queue``          take plans from their stream, acknowledge those decided
``plan``           what a plan says, and what its decision holds
``judge``          what is known of each plan at one moment, and the first gate that fails
``record``         one call of ``lua/decide.lua`` per plan: counted, permitted or blocked, on record
``limits``         numbers and counts of the limits
``permit``         what a permit says, and how whoever acts on one reads it
``decisions``      find a decision on record, and decide it again from there
``events``         the newest events as people ask for them
``switches``       kill switch, disarming, release of a guard
``guards``         the account's guards: set, announced, read
``account``        what guards are judged by
``guard_search``   guards under names that nobody reads
=================  ======================================================================================

Nothing here imports Dagster: the assets and commands call it. ``now`` is read once per batch of plans, by whoever takes them.
"""
