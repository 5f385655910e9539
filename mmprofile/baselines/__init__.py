"""Baselines that the four seams of the model cannot express."""
