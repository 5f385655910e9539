"""Profiles of people who are in no prepared data set."""
