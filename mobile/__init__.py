"""sardonyx."""
