"""The exit codes of every command, in one place."""

from __future__ import annotations

OK = 0  # done; of `wait` and a follow: every run FINISHED
FAILED = 1  # a run FAILED
USAGE = 2  # the command could not be obeyed; one line on stderr says why
CANCELLED = 3  # a run was CANCELLED
INTERRUPTED = 4  # a run was INTERRUPTED: `resume` goes on
NOT_STARTED = 5  # the runs are queued, but the service that runs them could not be started
TIMED_OUT = 124  # `wait --timeout` ran out, as of timeout(1)
STOPPED_LOOKING = 130  # Ctrl-C while following: the run goes on, as of a shell

OF_WAITING = (
    "Exit codes: 0 finished, 1 failed, 3 cancelled, 4 interrupted (of several runs, the worst in the order "
    "1, 3, 4, 0), 124 timed out, 130 Ctrl-C (the run goes on), 2 anything wrong with the command."
)
OF_COMMANDS = "Exit codes: 0 done, 2 not done (one line on stderr says why)."
