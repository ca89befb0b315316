"""How a server is reached: connections, when it is not asked at all, scripts, and what its refusals say."""
