"""`train`: one run in this process, shown, logged and saved."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from itertools import chain

from capsnet import checkpoint
from capsnet.checkpoint import CheckpointError
from capsnet.commands.places import Places, move_aside, places, require_own, save
from capsnet.config import Config
from capsnet.execution import device_of
from capsnet.exits import INTERRUPTED
from capsnet.figures import output
from capsnet.group import Group, GroupLost, from_environment
from capsnet.history import results
from capsnet.interrupts import Interrupts
from capsnet.keeper import Keeper
from capsnet.preflight import load
from capsnet.printable import say
from capsnet.progressbar import view
from capsnet.state import State, from_best
from capsnet.stopping import stopped_early
from capsnet.training import train


def run(arguments: Namespace) -> int:
    """Train as the file says, alone or as one of `torchrun`'s processes; return the exit code."""
    config = load(arguments.file, arguments.set, arguments.resume)
    with from_environment(device_of(config)) as group:
        return _lead(arguments, config, group) if group.leads else _follow(config, group)


def _follow(config: Config, group: Group) -> int:
    """Train as a process of another rank than 0; rank 0 shows, saves and prints the result."""
    with Interrupts(patient=True):  # `torchrun` sends it the signal as well
        try:
            for _ in train(config, group=group):
                pass
        except GroupLost as error:
            say(f"rank {group.rank} ends: {error}", sys.stderr)
    return 0


def _lead(arguments: Namespace, config: Config, group: Group) -> int:
    where = places(config)
    require_own(where.checkpoint)
    state = _beginning(config, where, arguments.resume)
    with Interrupts(patient=group.size > 1) as interrupts:
        progresses = train(config, state, group=group)
        first = next(progresses, None)  # errors of the data or the checkpoint are raised here
        if first is None:
            say(_over_before(config, state))
            return 0
        if state is None and (aside := move_aside(where)):
            say(f"the files of an earlier run were moved to {aside}; --resume would have gone on with it")
        shown = view(sys.stdout)
        with Keeper(config, where.checkpoint, where.tensorboard, state, shown, save=save) as keeper:
            for progress in chain([first], progresses):
                last = interrupts.asked  # read once: it may change before the next line
                keeper.see(progress, last)
                if keeper.complete:
                    keeper.draw(progress)
                if last:
                    break
    if keeper.complete:
        return _finished(keeper, where)
    say(f"stopped and saved; to go on: {_command(arguments)} --resume")
    return INTERRUPTED


def _beginning(config: Config, where: Places, resume: bool) -> State | None:
    """Return the state to go on from, where the command or the YAML asks to; otherwise None."""
    there = bool(checkpoint.files_of(where.checkpoint))
    if resume and not there:
        raise CheckpointError(f"there is no checkpoint {where.checkpoint} to resume: leave out --resume")
    if not there and config.checkpoint.use_checkpoint:
        say(f"there is no {where.checkpoint} to go on from: it begins at the first epoch")
    if not there or not (resume or config.checkpoint.use_checkpoint):
        return None
    state = checkpoint.load(where.checkpoint)
    say(f"going on from {where.checkpoint}: epoch {state['epoch']}, step {state['step']}")
    # --resume goes on with a run that may have begun from the best: again, that would undo later training.
    return from_best(state) if config.checkpoint.use_best and not resume else state


def _over_before(config: Config, state: State | None) -> str:
    """Return why there was nothing to train, and what to do to go on."""
    allowed = config.stop_after_epochs_without_gain
    early = state and stopped_early(state["history"], config.num_epochs, allowed)
    if early:
        return f"it {early}; to go on, raise stop_after_epochs_without_gain, or set it to null"
    return f"all {config.num_epochs} epochs were finished before; to go on, raise num_epochs"


def _finished(keeper: Keeper, where: Places) -> int:
    figures = results(keeper.history)
    say(f"test accuracy {figures['test/accuracy']:.2%} (error {figures['test/error']:.2%}) at the last epoch")
    if "best/epoch" in figures:
        best = f"test accuracy {figures['best/test/accuracy']:.2%} at epoch {figures['best/epoch']:.0f}"
        say(f"{best}, the best on the validation split")
    say(f"checkpoint   {where.checkpoint}")
    say(f"history      {checkpoint.history_path(where.checkpoint)}")
    say(f"evaluate     python -m capsnet evaluate {where.checkpoint}")
    say(f"curves       tensorboard --logdir {where.tensorboard}")
    if (pictures := output.folder_of(where.checkpoint)).exists():
        say(f"pictures     {pictures}")
    return 0


def _command(arguments: Namespace) -> str:
    return shlex.join(
        ["python", "-m", "capsnet", "train", arguments.file, *(f"--set={item}" for item in arguments.set)]
    )
