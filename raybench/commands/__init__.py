"""The commands behind the console script and `raybench.sweep`, one a file."""
