"""What the rows of a sweep say: statistics, tables and figures."""
