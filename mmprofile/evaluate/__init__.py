"""A finished run: its data and model, its predictions, their scores."""
