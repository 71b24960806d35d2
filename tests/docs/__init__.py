"""The documents' examples, run for real."""
