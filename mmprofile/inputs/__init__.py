"""A user's row -> views -> texts -> tensors."""
