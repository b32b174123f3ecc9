"""Quantizers: each module holds a pure function and the parametrization that applies it to a weight."""
