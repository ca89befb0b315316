"""The governor: gates of a plan, guards of the account, hints on a permit."""
