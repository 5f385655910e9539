"""A student refined on its own frozen votes."""
