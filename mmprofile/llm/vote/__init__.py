"""Answers -> labels with calibrated confidence."""
