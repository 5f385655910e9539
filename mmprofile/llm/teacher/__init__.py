"""The teachers that answer questions about people: a lexicon, a student, a local model, a model at an endpoint."""
