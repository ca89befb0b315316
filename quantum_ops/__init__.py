"""What people and machines run: commands, processes, pages, alerts. It may use everything; nothing uses it."""
