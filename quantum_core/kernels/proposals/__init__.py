"""What is proposed for an open position: stops, harvest, and whether both ask for a trade."""
