"""The exit codes of every command, in one place."""

from __future__ import annotations

OK = 0  # done; of `wait` and a follow: every run FINISHED
FAILED = 1  # a run FAILED
USAGE = 2  # the command could not be obeyed; one line on stderr says why
CANCELLED = 3  # a run was CANCELLED
INTERRUPTED = 4  # a run was INTERRUPTED: `resume` goes on
NOT_STARTED = 5  # the runs are queued, but the service that runs them could not be started
PARTLY = 6  # done for some of the runs that were named, and for the others not
TIMED_OUT = 124  # `wait --timeout` ran out, as of timeout(1)
UNREAD = 141  # nobody reads the output any more, as of a program that SIGPIPE has ended
STOPPED_LOOKING = 130  # Ctrl-C while following: the run goes on, as of a shell

OF_COMMANDS = "Exit codes: 0 done, 2 not done (one line on stderr says why)."
OF_SEVERAL = (
    "Exit codes: 0 done, 6 done for some of the runs and not for the others, 2 not done (stderr says why)."
)
OF_WAITING = (
    "Exit codes: 0 finished, 1 failed, 3 cancelled, 4 interrupted (of several runs the first of 1, 3, 4 that "
    "applies), 124 timed out, 130 Ctrl-C (the runs go on), 2 not done."
)
_OF_QUEUEING = "2 not queued, 5 queued, but the service could not be started"
OF_RESUME = f"Exit codes: 0 queued, {_OF_QUEUEING}, 6 some of the runs queued and the others not."
OF_SUBMIT = f"Exit codes: 0 queued, {_OF_QUEUEING}. With --wait or --follow also those of `wait`."
