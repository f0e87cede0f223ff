"""Assets and event-driven scheduling."""
