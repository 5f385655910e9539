"""The whole stage."""
