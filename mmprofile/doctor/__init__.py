"""Whether a training could start on this machine, and what it would need."""
