"""Voted labels -> a student."""
