"""Slow, obvious twins of native code and readers: the oracle of the tests and an executable specification."""
