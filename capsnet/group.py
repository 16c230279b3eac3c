"""Processes that train one network together: their ranks, their parts of a batch, their sums.

Each process holds the whole network and computes on its part of every batch. The gradients of all parts are
added up before each process updates its weights, so that all keep the same weights. Rank 0 leads: it alone
gives out what is measured and saved, and it ends the training by taking no more steps.

Not by PyTorch's DistributedDataParallel: that averages over processes where images count, hooks one `forward`
where training calls two methods of a network, has no place for a batch of fewer images than processes, and
the batch normalisation that goes with it is for GPUs only.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from io import BytesIO
from typing import Any

import torch
import torch.distributed as dist

# Imported before there is a group: its functions take the group that exists at the import as a default, and
# torch.compile imports it in passing. That group's threads would live on, and the interpreter may crash or
# hang on them as it ends.
import torch.distributed.nn.functional
from torch.distributed import Store, TCPStore  # pyright: ignore[reportPrivateImportUsage] - documented there
from torch.distributed.rendezvous import rendezvous

TIMEOUT_SECONDS = 300.0  # that processes wait for another one, which may be compiling or reading its data
IPV4_ADDRESS = 0x8915  # SIOCGIFADDR of Linux: which address an interface has
OWN = ("ncclUnhandledCudaError", "ncclInvalidArgument", "ncclInvalidUsage")  # NCCL: the caller's own error
GLOO = re.compile(r"\[(enforce fail at )?\S*gloo/\S+:\d+\]|pair closure")  # how gloo's errors read


class GroupError(Exception):
    """Error where the processes cannot train together; the message is one line."""


class GroupLost(GroupError):  # noqa: N818 - the name says what happened
    """Error where a process of the group has gone, or does not come."""


@dataclass(frozen=True)
class Group:
    """A group of `size` processes, as the process `rank` sees it; rank 0 leads."""

    rank: int
    size: int
    neighbours: int = 1  # how many of the processes, this one among them, are on this machine

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank {self.rank} of {self.size}")

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def part(self, count: int) -> Part:
        """Return this process's part of `count` images."""
        return Part(self, count)

    def add(self, *tensors: torch.Tensor) -> None:
        """Replace each tensor by the sum of all processes' tensors at its place; all processes call `add`.

        Every process gets the same bits. Raises GroupLost when one of the others has gone; an error of this
        process, such as of its GPU, is raised as it is.
        """
        if self.size == 1:
            return
        with _losses():
            for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                assert work is not None, "every process is in the group"
                work.wait()

    def told(self, value: Any) -> Any:
        """Broadcast rank 0's value, of plain values and tensors on the CPU, and return it.

        The argument of the other ranks is ignored.
        """
        if self.size == 1:
            return value
        content = _written(value) if self.leads else torch.empty(0, dtype=torch.uint8)
        length = torch.tensor(len(content))
        with _losses():
            dist.broadcast(length, 0)
            content = content if self.leads else torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(content, 0)
        return value if self.leads else _read(content)


ALONE = Group(0, 1)


@dataclass(frozen=True)
class Part:
    """One process's part of `count` images that a group trains on or tests together.

    The parts differ by one image at most, and each image is in one of them. Fewer images than processes
    are not worth splitting: every process takes all of them, and what rank 0 measures counts.
    """

    group: Group
    count: int

    @property
    def is_split(self) -> bool:
        return 1 < self.group.size <= self.count

    @property
    def rows(self) -> slice:
        return self._rows(self.group.rank) if self.is_split else slice(0, self.count)

    @property
    def weight(self) -> float:
        """The weight of this part's measurements in the sum over all processes."""
        return 1.0 if self.is_split or self.group.leads else 0.0

    def __len__(self) -> int:
        return self.rows.stop - self.rows.start

    @cached_property
    def sizes(self) -> list[int]:
        """Number of images of each process, where they are split."""
        every = [self._rows(rank) for rank in range(self.group.size)]
        return [rows.stop - rows.start for rows in every]

    def _rows(self, rank: int) -> slice:
        return slice(rank * self.count // self.group.size, (rank + 1) * self.count // self.group.size)


class Gradients:
    """The gradients of a network's weights in one piece of memory, which a group adds up in one call."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """`parameters`: of one type, on one device. From here on their `grad` must not be replaced."""
        first = parameters[0]
        self.flat = torch.zeros(sum(map(torch.numel, parameters)), dtype=first.dtype, device=first.device)
        for parameter, piece in zip(
            parameters, self.flat.split([p.numel() for p in parameters]), strict=True
        ):
            parameter.grad = piece.as_strided(parameter.size(), parameter.stride())


class Summed(torch.autograd.Function):
    """The sum of all processes' tensors; its gradient is the sum of all processes' gradients of it."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: Group) -> torch.Tensor:
        ctx.group = group
        total = tensor.clone()
        group.add(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        ctx.group.add(total)
        return total, None


def host(address: str = "", timeout_seconds: float = TIMEOUT_SECONDS) -> TCPStore:
    """Open the store in which a group meets, in the process of its rank 0; `store.port` is its port."""
    wait = timedelta(seconds=timeout_seconds)
    return TCPStore(address or "0.0.0.0", 0, is_master=True, timeout=wait, wait_for_workers=False)


@contextmanager
def meeting(
    rank: int, size: int, address: str, device: str, timeout_seconds: float = TIMEOUT_SECONDS
) -> Iterator[Group]:
    """Join the group that meets at `address`, "host:port"; GroupLost where the others do not come."""
    name, _, port = address.rpartition(":")
    with _losses(f"rank {rank} of {size}: nobody is at {address}"):
        wait = timedelta(seconds=timeout_seconds)
        store = TCPStore(name, int(port), is_master=False, timeout=wait, wait_for_workers=False)
    with joined(rank, size, store, device, timeout_seconds, towards=name) as group:
        yield group


@contextmanager
def from_environment(device: str, timeout_seconds: float = TIMEOUT_SECONDS) -> Iterator[Group]:
    """Join the group that `torchrun` has started this process for; ALONE without `torchrun`."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    wait = timedelta(seconds=timeout_seconds)
    try:
        with _losses(f"rank {os.environ.get('RANK')}: nobody is at {os.environ.get('MASTER_ADDR')}"):
            store, rank, size = next(rendezvous("env://", timeout=wait))
    except ValueError as error:
        raise GroupError(f"the environment does not say where the group meets: {error}") from error
    towards = os.environ["MASTER_ADDR"]
    with joined(rank, size, store, device, timeout_seconds, towards=towards) as group:
        yield group


@contextmanager
def joined(
    rank: int, size: int, store: Store, device: str, timeout_seconds: float, towards: str
) -> Iterator[Group]:
    """Join the group that meets in `store`; `towards`: the host on whose network the processes communicate.

    `device`: on which each process computes. GPUs communicate by NCCL, which refuses processes that share
    one; those, and CPUs, use gloo. A process that takes longer than `timeout_seconds` counts as lost.
    """
    if size == 1:
        yield ALONE
        return
    places = _places(rank, size, store, device)
    kinds = {kind for _, kind, _ in places}
    if len(kinds) > 1:
        raise GroupError("some of the group's processes have a GPU and some have none: give each of them one")
    apart = device == "cuda" and len({(where, card) for where, _, card in places}) == size
    if interface := _interface(towards):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    if rank:
        # NCCL's watchdog would end this process when rank 0 takes no more steps, as if it had crashed. So it
        # ends the communicator alone, and the next step raises GroupLost; that step's numbers are not used.
        # Rank 0 itself, which saves, must not go on with half a sum.
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2")  # CleanUpOnly; not tried with GPUs yet
    with _losses(f"rank {rank} of {size} cannot reach the others"):
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if apart else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=timeout_seconds),
        )
    try:
        yield Group(rank, size, sum(where == places[rank][0] for where, _, _ in places))
    except BaseException as error:
        _leave_after(error)
        raise
    dist.destroy_process_group()


def _leave_after(error: BaseException) -> None:
    """Leave the group without hiding what went wrong: where a GPU is at fault, to leave may fail as well."""
    try:
        dist.destroy_process_group()
    except RuntimeError as later:
        error.add_note(f"and the group could not be left: {later}")


def _places(rank: int, size: int, store: Store, device: str) -> list[tuple[str, str, str]]:
    """Return for each process its machine, its kind of device and the identifier of its GPU."""
    card = str(torch.cuda.get_device_properties().uuid) if device == "cuda" else ""
    with _losses(f"rank {rank} of {size}: not all of the group have come"):
        store.set(f"place {rank}", "\n".join((socket.gethostname(), device, card)))
        found = [store.get(f"place {other}").decode().split("\n") for other in range(size)]
    return [(where, kind, card) for where, kind, card in found]


def _interface(name: str) -> str | None:
    """Return the network interface by which `name` is reached; gloo would guess it from this host's name."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((name, 9))  # sends nothing
            own = socket.inet_aton(probe.getsockname()[0])
            for _, interface in socket.if_nameindex():
                if _address_of(probe, interface) == own:
                    return interface
    except OSError:  # a name without an IPv4 address: gloo has to guess
        return None
    return None


def _address_of(probe: socket.socket, interface: str) -> bytes | None:
    try:
        answer = fcntl.ioctl(probe.fileno(), IPV4_ADDRESS, struct.pack("256s", interface.encode()[:15]))
    except OSError:  # it has none
        return None
    return answer[20:24]


@contextmanager
def _losses(said: str = "another process of the group has gone") -> Iterator[None]:
    """Turn PyTorch's errors of processes that do not answer into GroupLost, one line; pass on all others."""
    try:
        yield
    except RuntimeError as error:
        if not _is_loss(error):
            raise
        raise GroupLost(f"{said}: {str(error).splitlines()[0][:200]}") from error


def _is_loss(error: RuntimeError) -> bool:
    """Return whether an error comes from the other processes or the network, and not from this process.

    The store's errors and NCCL's have types. Gloo's are plain RuntimeErrors that name a source file of gloo.
    All that remains, OutOfMemoryError and AcceleratorError among it, is this process's own: it would only
    occur again, so the run should not be started again for it. So is a DistBackendError in which NCCL
    reports that CUDA failed under it, or that it was called wrongly.

    What gloo raises has been seen on CPUs: for a process that was killed, that left and that hangs. What
    NCCL raises is taken from its source, and was not tried, for want of GPUs. Nor was whether a process
    that is killed while another's GPU reads its memory leaves that one with a CUDA error, which would then
    be taken for its own and fail the run.
    """
    said = str(error)
    if isinstance(error, dist.DistBackendError):
        return not any(kind in said for kind in OWN)
    if isinstance(error, dist.DistError):
        return True
    return type(error) is RuntimeError and GLOO.search(said) is not None


def _written(value: Any) -> torch.Tensor:
    file = BytesIO()
    torch.save(value, file)
    return torch.frombuffer(file.getbuffer(), dtype=torch.uint8)


def _read(content: torch.Tensor) -> Any:
    """Read a broadcast value as a checkpoint is read, so that no code in it can run."""
    return torch.load(BytesIO(content.numpy().tobytes()), map_location="cpu", weights_only=True)
