"""A config for data of one's own: how long to train, on what batch, and the file that says so."""
