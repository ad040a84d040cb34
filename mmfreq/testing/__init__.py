"""What tests of this package and of its users share: weights from names and shapes, and comparison with golden files."""
