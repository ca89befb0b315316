"""From what was observed to an alert that a person receives."""
