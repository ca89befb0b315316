"""The governor's plans, decisions, guards and switches in Redis."""
