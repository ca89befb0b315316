"""Assets of the recorded days: what the flight recorder has kept, and what the numbers of those days were worth."""
