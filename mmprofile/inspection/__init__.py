"""Inside a run: gates, attention, posteriors, counterfactuals."""
