"""The exit codes of the command line."""

FAILED = 1  # what was asked for did not come about
MISTAKE = 2  # in what the user gave
INTERRUPTED = 130  # as shells have it for Ctrl-C
