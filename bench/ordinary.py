"""Reference of "x times faster": the paper's network and its training as most people would write them.

Sabour, Frosst, Hinton 2017, section 4 and Procedure 1, eager, in float32 or under autocast: the predictions
of all capsules in one tensor, routing logits kept for each image, images through torchvision's transforms
and a DataLoader. Nothing here is made fast, and nothing slow on purpose. It is right: tests/bench compares
its lengths, loss and gradients with capsnet's. bench/step.py and bench/scale.py measure it beside capsnet.

Letters of shapes: B batch, I primary capsules, K their dimension, J classes, D dimension of their capsules,
C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from capsnet.config import CapsNetModel, Config, FCDecoder, MarginLoss, MultiStep
from capsnet.images import Images, ImageShape

# Keys of photographs, as they are where nothing is done.
UNUSED = {"crop": None, "flip": False, "brightness": 0.0, "contrast": (1.0, 1.0), "standardise": False}


def squash(inputs: torch.Tensor) -> torch.Tensor:
    """Equation 1, along the last dimension."""
    length = inputs.norm(dim=-1, keepdim=True)
    return inputs * length / (1 + length**2)


class PrimaryCapsules(nn.Module):
    def __init__(self, channels: int, types: int, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.types, self.dim = types, dim
        self.conv = nn.Conv2d(channels, types * dim, kernel_size, stride=2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features [B, C, H, W] -> capsules [B, I, K], I counting types, then rows, then columns."""
        outputs = self.conv(features)
        batch, _, height, width = outputs.shape
        capsules = outputs.view(batch, self.types, self.dim, height, width).permute(0, 1, 3, 4, 2)
        return squash(capsules.reshape(batch, -1, self.dim))


class ClassCapsules(nn.Module):
    def __init__(self, capsules: int, capsule_dim: int, classes: int, dim: int, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.weight = nn.Parameter(0.1 * torch.randn(capsules, classes, dim, capsule_dim))

    def forward(self, capsules: torch.Tensor) -> torch.Tensor:
        """Capsules [B, I, K] -> [B, J, D]."""
        predictions = torch.einsum("ijdk,bik->bijd", self.weight, capsules)
        logits = capsules.new_zeros(predictions.shape[:3])  # [B, I, J]
        for _ in range(self.iterations - 1):
            outputs = self.collect(logits, predictions)
            logits = logits + torch.einsum("bijd,bjd->bij", predictions, outputs)
        return self.collect(logits, predictions)

    def collect(self, logits: torch.Tensor, predictions: torch.Tensor) -> torch.Tensor:
        """Logits [B, I, J] and predictions [B, I, J, D] -> [B, J, D]."""
        return squash(torch.einsum("bij,bijd->bjd", logits.softmax(dim=2), predictions))


class OrdinaryCapsNet(nn.Module):
    def __init__(
        self, model: CapsNetModel, iterations: int, hidden: tuple[int, ...], shape: ImageShape
    ) -> None:
        super().__init__()
        self.shape = shape
        kernel = model.kernel_size
        self.conv = nn.Conv2d(shape.channels, model.conv_channels, kernel)
        self.primary = PrimaryCapsules(model.conv_channels, model.primary_types, model.primary_dim, kernel)
        rows, columns = ((side - 2 * (kernel - 1) - 1) // 2 + 1 for side in (shape.height, shape.width))
        self.classes = ClassCapsules(
            model.primary_types * rows * columns,
            model.primary_dim,
            shape.classes,
            model.class_dim,
            iterations,
        )
        layers: list[nn.Module] = []
        size = shape.classes * model.class_dim
        for units in hidden:
            layers += [nn.Linear(size, units), nn.ReLU()]
            size = units
        layers += [nn.Linear(size, shape.channels * shape.height * shape.width), nn.Sigmoid()]
        self.decoder = nn.Sequential(*layers)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images [B, C, H, W] and labels [B] -> lengths [B, J] and reconstructions [B, C, H, W]."""
        capsules = self.classes(self.primary(F.relu(self.conv(images))))
        mask = F.one_hot(labels, self.shape.classes).to(capsules.dtype)
        decoded = self.decoder((capsules * mask.unsqueeze(-1)).flatten(1))
        return capsules.norm(dim=-1), decoded.view_as(images)


def loss_of(
    lengths: torch.Tensor,
    reconstructions: torch.Tensor,
    images: torch.Tensor,
    labels: torch.Tensor,
    reconstruction_weight: float = 0.0005,
) -> torch.Tensor:
    """The mean over the batch of the margin loss (Equation 4) and the weighed squared error."""
    there = F.one_hot(labels, lengths.shape[1]).to(lengths.dtype)
    margin = there * F.relu(0.9 - lengths) ** 2 + 0.5 * (1 - there) * F.relu(lengths - 0.1) ** 2
    squared = ((reconstructions - images) ** 2).flatten(1).sum(dim=1)
    return (margin.sum(dim=1) + reconstruction_weight * squared).mean()


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """Images as torchvision's data sets give them: a PIL image, transformed, and its label."""

    def __init__(self, images: Images, transform: Callable[[Any], torch.Tensor]) -> None:
        # [N, H, W] is what PIL calls grey, [N, H, W, 3] colour.
        self.pixels = images.images.permute(0, 2, 3, 1).squeeze(3).cpu().numpy()
        self.labels = images.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


class Training:
    """The training loop of that network, one batch a `step`, without an end."""

    def __init__(self, config: Config, shape: ImageShape, images: Images, device: str) -> None:
        """Raises ValueError where `config` asks for what this implementation does not have."""
        require_ordinary(config, shape)
        assert isinstance(config.model, CapsNetModel) and isinstance(config.model.decoder, FCDecoder)
        assert isinstance(config.loss, MarginLoss)
        self.device = device
        self.weight = config.loss.rc_loss_weight
        self.autocast = torch.autocast(device, torch.bfloat16, enabled=config.precision == "bfloat16")
        self.network = OrdinaryCapsNet(
            config.model, config.route_iters, config.model.decoder.hidden, shape
        ).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.optim.lr)
        crop = transforms.RandomCrop((shape.height, shape.width), padding=config.dataset.shift)
        pictures = Pictures(images, transforms.Compose([crop, transforms.ToTensor()]))
        self.loader = DataLoader(
            pictures,
            batch_size=config.batch_size,
            shuffle=True,
            num_workers=config.dataloader.num_workers,
            pin_memory=device == "cuda",
            persistent_workers=config.dataloader.num_workers > 0,
        )
        self._batches = self._without_end()

    def _without_end(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield from self.loader

    def step(self) -> None:
        images, labels = next(self._batches)
        images, labels = images.to(self.device), labels.to(self.device)
        self.network.train()
        self.optimizer.zero_grad()
        with self.autocast:
            lengths, reconstructions = self.network(images, labels)
            loss = loss_of(lengths, reconstructions, images, labels, self.weight)
        loss.backward()
        self.optimizer.step()


def require_ordinary(config: Config, shape: ImageShape) -> None:
    """Raise ValueError where `config` asks for more than the paper's text, sizes apart."""
    model = config.model
    sizes = ("conv_channels", "kernel_size", "primary_types", "primary_dim", "class_dim")
    if not isinstance(model, CapsNetModel) or not isinstance(model.decoder, FCDecoder):
        raise ValueError("the ordinary implementation is the paper's network with its decoder")
    plain = CapsNetModel(**{key: getattr(model, key) for key in sizes})
    if model.model_copy(update={"decoder": FCDecoder()}) != plain or model.decoder.batch_norm:
        raise ValueError(f"of `model` the ordinary implementation knows the sizes: {', '.join(sizes)}")
    weight = getattr(config.loss, "rc_loss_weight", None)
    if weight is None or config.loss != MarginLoss(rc_loss_weight=weight):
        raise ValueError("the ordinary implementation has the paper's losses: of `loss` set rc_loss_weight")
    if config.optim != MultiStep(lr=config.optim.lr):
        raise ValueError("the ordinary implementation has a constant learning rate: of `optim` set lr")
    if config.precision not in ("float32", "bfloat16"):
        raise ValueError("the ordinary implementation computes in float32, or in bfloat16 under autocast")
    if shape.channels not in (1, 3) or shape.labels != 1:
        raise ValueError("the ordinary implementation takes images of 1 or 3 channels and one label")
    if any(getattr(config.dataset, key, none) != none for key, none in UNUSED.items()):
        raise ValueError(f"of `dataset` the ordinary implementation knows no {', '.join(UNUSED)}")
