"""Everything that knows of Ray: session, trainables, searcher, schedulers, driver. No other package imports it."""
