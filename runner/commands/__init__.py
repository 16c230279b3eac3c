"""The commands of `python -m runner`, one concept a file; each imports what it needs when it runs."""
