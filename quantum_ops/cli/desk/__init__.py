"""Commands of the desk: what is published and decided, what blocks openings, and the switches."""
