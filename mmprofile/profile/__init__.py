"""What a profile is, how it is written and read, and how it is scored."""
