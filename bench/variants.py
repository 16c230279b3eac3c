"""Subjects of the benches of training: networks in training, and lower bounds of their time.

The images are noise: what a step costs does not depend on what they show, and no file is needed. Their
size, channels and classes are those of the data set that the configuration names.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from measure import Measured, Parser, whole
from ordinary import Training

from capsnet import batches, config, datasets, execution, models, yamlfile
from capsnet.capsule_network import CapsNet
from capsnet.config import Config, ConfigError
from capsnet.execution import Execution
from capsnet.geometry import PRIMARY_STRIDE
from capsnet.group import ALONE, Group
from capsnet.images import Images
from capsnet.images import whole as size_before_cropping
from capsnet.learner import Learner
from capsnet.mistakes import Mistake

ORDINARY = "ordinary"
PAPER = ("capsnet", ORDINARY)  # the models that have the paper's two convolutions
MODELS: dict[str, dict[str, Any]] = {
    "capsnet": {},
    ORDINARY: {},
    "efficient_capsnet": {"model": {"name": "efficient_capsnet"}},
    "matrix_capsnet": {"model": {"name": "matrix_capsnet"}, "dataset": {"name": "smallnorb"}},
    "cnn": {"model": {"name": "cnn"}},
}
PRECISIONS = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}
MODES = {
    "eager": {"compile": False, "cuda_graph": False},
    "compiled": {"compile": True, "cuda_graph": False},
    "graph": {"compile": False, "cuda_graph": True},
    "compiled-graph": {"compile": True, "cuda_graph": True},
}
STEPS = {"cpu": 1, "cuda": 10}  # that are timed together
EPOCHS = 1_000_000  # never reached
BATCHES = 16  # of generated images; an epoch


@dataclass(frozen=True)
class Variant:
    """One way to train."""

    model: str  # one of MODELS
    precision: str  # one of PRECISIONS
    mode: str = "eager"  # one of MODES
    overrides: tuple[str, ...] = ()  # `key=value` each, as `--set` takes them

    @property
    def name(self) -> str:
        return f"{self.model} {self.precision} {self.mode}"

    def config(self) -> Config:
        """Return the configuration. Raises ConfigError with every mistake of the overrides."""
        mode = MODES[self.mode]
        keys = {**MODELS[self.model], **mode, "precision": self.precision, "num_epochs": EPOCHS}
        document = yamlfile.with_overrides(yamlfile.Document(self.model, keys, {}), self.overrides)
        found = yamlfile.validate(Config, config.training_part(document), document, known=())
        if found.precision != self.precision:
            raise mistake("precision: name it by --precision")
        if (found.compile, found.cuda_graph) != tuple(mode.values()):
            raise mistake("compile, cuda_graph: name them by --mode")
        if found.cuda_graph and not execution.resolve(found).cuda_graph:
            raise mistake(f"--mode {self.mode}: needs a GPU, and deterministic: false")
        if found.model.name != Config.model_validate(MODELS[self.model]).model.name:
            raise mistake("model.name: name models as arguments")
        if found.num_epochs != EPOCHS:
            raise mistake("num_epochs: steps are measured as long as --rounds and --steps say")
        return found


def mistake(message: str) -> ConfigError:
    return ConfigError([Mistake("bench", None, "", message)])


def variants(
    names: Iterable[str], precisions: Iterable[str], modes: Iterable[str], overrides: Iterable[str]
) -> list[Variant]:
    """Return every model in every precision and mode, once each.

    The ordinary one is eager, always in float32, and beside that under autocast where bfloat16 is asked for.
    """
    found: list[Variant] = []
    for name, precision, mode in itertools.product(names, precisions, modes):
        if name != ORDINARY:
            found.append(Variant(name, precision, mode, tuple(overrides)))
            continue
        found.append(Variant(name, "float32", overrides=tuple(overrides)))
        if precision == "bfloat16":
            found.append(Variant(name, precision, overrides=tuple(overrides)))
    chosen = list(dict.fromkeys(found))
    computed = {each.precision for each in chosen}
    if "tf32" in computed and len(computed) > 1:
        raise mistake("--precision tf32: a switch for the whole process, so measure it by itself")
    return chosen


def training(variant: Variant) -> Measured:
    """Make a variant's training. Raises ConfigError where the variant's configuration is invalid."""
    settings, how = resolved(variant)
    if variant.model != ORDINARY:
        return Steps(settings, how)
    try:
        return Training(settings, datasets.shape(settings.dataset), noise(settings), how.device)
    except ValueError as error:
        raise mistake(str(error)) from error


def resolved(variant: Variant) -> tuple[Config, Execution]:
    """Return a variant's configuration and execution; ConfigError where its precision is not to be had."""
    settings = variant.config()
    how = applied(settings)
    if how.precision != variant.precision:
        raise mistake(f"--precision {variant.precision}: not to be had here")
    return settings, how


def applied(settings: Config) -> Execution:
    """Resolve the execution of `settings` on this machine, apply it to this process and return it."""
    how = execution.resolve(settings)
    execution.apply(how)
    return how


def noise(settings: Config) -> Images:
    """Make random training images on the CPU, as augmentation takes them."""
    shape = datasets.shape(settings.dataset)
    count = BATCHES * settings.batch_size
    random = torch.Generator().manual_seed(0)
    size = (count, shape.channels, *size_before_cropping(settings.dataset))
    pixels = torch.randint(0, 256, size, generator=random, dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % shape.classes)


class Steps:
    """capsnet's own training without an end: batch, augmentation, forward, losses, backward, optimizer."""

    def __init__(self, settings: Config, how: Execution, group: Group = ALONE) -> None:
        self.device = how.device
        self.how = how
        if how.compile:  # PyTorch's limit is 8 kinds of step; a bench compiles only those it is asked for
            torch._dynamo.config.recompile_limit = 1000
        images = noise(settings)
        self.learner = Learner(settings, how, datasets.shape(settings.dataset), len(images), None, group)
        if not settings.dataloader.num_workers:
            images = images.to(how.device)
        self._batches = batches.batches(settings, images, how.device, (1, 0), group)

    def step(self) -> None:
        self.learner.step(next(self._batches))
        found = self.learner.execution
        if found.device == "cuda":  # which does not use a kernel of routing that is not faster
            found = replace(found, native_routing=self.how.native_routing)
        if found != self.how:
            raise mistake("--mode compiled: this network cannot be compiled here, as the warning says")
        if self.learner.steps == self.learner.steps_per_epoch:
            self.learner.finish_epoch({})


class Convolutions:
    """The two convolutions of the paper's network, forward and backward, and nothing else.

    94% of a step's arithmetic is in the second one. Weights and images are in the precision itself: nothing
    is converted.
    """

    def __init__(self, settings: Config, precision: str) -> None:
        how = applied(settings)
        self.device = how.device
        shape = datasets.shape(settings.dataset)
        network = models.build(settings, shape)
        assert isinstance(network, CapsNet)
        form = {"device": how.device, "dtype": PRECISIONS[precision]}
        self.first = network.conv.to(**form).to(memory_format=how.torch_memory_format)
        second = network.primary.weight.detach().to(**form)
        self.second = second.to(memory_format=how.torch_memory_format).requires_grad_()
        size = (settings.batch_size, shape.channels, shape.height, shape.width)
        images = torch.rand(size, generator=torch.Generator().manual_seed(0)).to(**form)
        self.images = images.to(memory_format=how.torch_memory_format)
        self.gradient = torch.ones_like(self._forward().detach())

    def _forward(self) -> torch.Tensor:
        return F.conv2d(self.first(self.images), self.second, stride=PRIMARY_STRIDE)

    def step(self) -> None:
        self.first.zero_grad()
        self.second.grad = None
        self._forward().backward(self.gradient)


class Product:
    """A product of two square matrices, large enough to keep the machine busy with nothing but products."""

    def __init__(self, side: int, device: str, precision: str) -> None:
        self.device = device
        random = torch.Generator().manual_seed(0)
        factor = torch.randn(side, side, generator=random).to(device, PRECISIONS[precision])
        self.factors = factor, factor.T.contiguous()
        self.result = torch.empty_like(factor)

    def step(self) -> None:
        torch.mm(*self.factors, out=self.result)


def add_options(parser: Parser) -> None:
    """Add the options that all benches of steps have."""
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["float32"])
    parser.add_argument("--mode", nargs="+", choices=MODES, default=["eager"])
    parser.add_argument("--rounds", type=whole(2), default=11, help="each measures everything once")
    parser.add_argument("--steps", type=whole(1), help="timed together in a round; 1, or 10 on a GPU")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in a run's YAML")
    parser.add_argument("--json", action="store_true")


def model(name: str) -> str:
    """Return an argument that must be the name of a model."""
    if name not in MODELS:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(MODELS)} (got {name!r})")
    return name
