"""What profiles are good for."""
