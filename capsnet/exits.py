"""The exit codes of the command line."""

FAILED = 1  # the command could not do its work
MISTAKE = 2  # in the user's arguments or files
INTERRUPTED = 130  # as shells have it for Ctrl-C
