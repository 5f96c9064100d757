"""Measurements. Each module writes its figures to bench/results."""
