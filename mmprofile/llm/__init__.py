"""Conf-Profile's auxiliary stage: labels of text-only attributes by a language model, with confidence, distilled and refined."""
