"""Commands of the lab: what profiles would have done on history, and what that is worth."""
