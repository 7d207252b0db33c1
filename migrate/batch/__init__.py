"""Many sources: plan, journal, executors."""
