"""Labels -> the prepared data set."""
