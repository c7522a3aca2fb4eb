"""What a sweep leaves behind: Parquet that survives crashes, curves, a manifest, a lock; and published numbers."""
