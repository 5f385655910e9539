"""A user's row -> views -> tensors."""
