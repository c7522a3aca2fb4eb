"""Everything that knows of Ray: the session, the trainables, the searcher, the schedulers, the driver. No other package imports it."""
