"""Labels against gold values."""
