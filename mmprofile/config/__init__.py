"""The typed configuration: its types, how it is composed, and what every command line is checked by."""
