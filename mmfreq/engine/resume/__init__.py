"""Runs that stop and continue exactly: data order, loops, checkpoints, stop signals, and where a run starts."""
