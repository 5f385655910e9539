"""Profiles: their schema, how they are written and read, and how they are scored."""
