"""When: pure ``decide`` functions, and a thin shell around each."""
