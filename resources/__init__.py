"""What is touched: settings, Redis, candle and position readers, the IO manager, the embedded server."""
