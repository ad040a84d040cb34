"""Measures and pictures. Nothing is imported here, so that each module costs only what it needs itself."""
