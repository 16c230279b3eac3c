"""Commands of `python -m capsnet`, one file a command."""
