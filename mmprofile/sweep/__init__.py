"""Tables, figures and searches over many runs."""
