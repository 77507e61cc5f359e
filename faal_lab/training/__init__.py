"""Train: a generator of events, steering, resuming, and runs in a process of their own."""
