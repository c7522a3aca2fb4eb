"""One training loop and what it needs: tasks, metrics, schedules, checkpoints. A whole trial runs without Ray."""
