"""Speed and memory that are asked for by name."""
