"""Runs that stop at any moment and resume exactly.

| module | what it does |
|---|---|
| `start` | where a run starts: the latest checkpoint, the pretrained files, and a check of the work directory |
| `loops` | train loops that resume at the next batch |
| `data_order` | which samples a run sees, and their random numbers |
| `stop_signal` | stop a run by SIGTERM or SIGUSR1 |
| `checkpoint_hook`, `atomic_files` | checkpoints that are complete or absent |
"""
