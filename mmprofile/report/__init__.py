"""The reports of a run for people."""
