"""Who answers about people: a lexicon, a local model, an endpoint."""
