"""What `python -m capsnet` can do, one file a command."""
