"""A student's adapter and its base -> whole weights."""
