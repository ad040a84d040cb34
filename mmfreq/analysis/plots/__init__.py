"""Pictures of what the modules above this folder measure, one file for each; matplotlib's object interface, no state."""
