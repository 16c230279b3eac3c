"""The `model` and `loss` sections of a run's YAML: networks, routing, decoders, losses."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, Tag

from capsnet.sections import Count, NotNegative, Section, tagged

PAPER_RECONSTRUCTION_WEIGHT = 0.0005

Kernel = Annotated[int, Field(ge=1, le=255)]  # pixels a side


class DynamicRouting(Section):
    """Routing by agreement (Sabour et al. 2017, Procedure 1)."""

    elsewhere: ClassVar[dict[str, str]] = {"em": "em is the routing of model.name: matrix_capsnet"}

    name: Literal["dynamic"] = "dynamic"
    gradient: Literal["full", "detached"] = "full"  # through every iteration, or through the last one only


class AttentionRouting(Section):
    """Self-attention without iterations (Mazzia et al. 2021, Equations 3 to 6)."""

    name: Literal["attention"] = "attention"


class SelfRouting(Section):
    """Each capsule for itself, by a routing network of its own (Hahn, Pyeon and Kim 2019)."""

    name: Literal["self"] = "self"


Routing = Annotated[
    Annotated[DynamicRouting, Tag("dynamic")]
    | Annotated[AttentionRouting, Tag("attention")]
    | Annotated[SelfRouting, Tag("self")],
    tagged("name", "dynamic"),
]


class FCDecoder(Section):
    """Fully connected decoder (Sabour et al. 2017, Figure 2)."""

    name: Literal["fc"] = "fc"
    hidden: Annotated[tuple[Count, ...], Field(min_length=1, strict=False)] = (512, 1024)  # units, by layer
    batch_norm: bool = False


class DeconvDecoder(Section):
    """Transposed convolutions from a grid of 10 channels, in a fifth of the parameters on MNIST."""

    name: Literal["deconv"] = "deconv"
    batch_norm: bool = False


class NoDecoder(Section):
    """The same as loss.with_reconstruction: false."""

    name: Literal["none"] = "none"


Decoder = Annotated[
    Annotated[FCDecoder, Tag("fc")]
    | Annotated[DeconvDecoder, Tag("deconv")]
    | Annotated[NoDecoder, Tag("none")],
    tagged("name", "fc"),
]


class CapsNetModel(Section):
    """The network of Sabour et al. 2017; its sizes default to the paper's on MNIST."""

    name: Literal["capsnet"] = "capsnet"
    conv_channels: Count = 256
    kernel_size: Kernel = 9  # pixels, of both convolutions
    padding: Literal["valid", "same"] = "valid"  # same: the first convolution keeps the image's size
    primary_padding: Literal["valid", "same"] = "valid"  # same: that of the primary capsules halves it
    primary_types: Count = 32
    primary_dim: Count = 8
    class_dim: Count = 16
    # softmax: the authors' one pass over the types; leaky: one that may also go to none of them, as theirs
    # does with none_of_the_above.
    primary_routing: Literal["squash", "softmax", "leaky"] = "squash"
    class_bias: bool = False  # the authors' bias on the routed capsules
    none_of_the_above: bool = False  # couplings may also go to no class at all
    init: Literal["paper", "authors"] = "paper"
    routing: Routing = DynamicRouting()
    decoder: Decoder = FCDecoder()  # there with loss.with_reconstruction only


class MatrixCapsNetModel(Section):
    """Matrix capsules with EM routing (Hinton, Sabour, Frosst 2018); sizes default to the paper's."""

    name: Literal["matrix_capsnet"] = "matrix_capsnet"
    conv_channels: Count = 32  # A
    primary_types: Count = 32  # B
    capsule_types: Annotated[tuple[Count, ...], Field(min_length=1, strict=False)] = (32, 32)  # C, D
    coordinates: bool = True  # coordinate addition at the classes


class EfficientCapsNetModel(Section):
    """Efficient-CapsNet (Mazzia, Salvetti, Chiaberge 2021); sizes default to the paper's on MNIST."""

    name: Literal["efficient_capsnet"] = "efficient_capsnet"
    conv_channels: Annotated[tuple[Count, ...], Field(min_length=2, strict=False)] = (32, 64, 64, 128)
    first_kernel_size: Kernel = 5  # pixels; the convolutions after the first are 3×3
    first_stride: int = Field(default=1, ge=1, le=8)  # pixels; that of the last convolution is 2
    primary_dim: Count = 8
    class_dim: Count = 16
    decoder: Decoder = FCDecoder()


class CNNModel(Section):
    """The convolutional baselines of Sabour et al. 2017; sizes default to that of their section 5."""

    name: Literal["cnn"] = "cnn"
    conv_channels: Annotated[tuple[Count, ...], Field(min_length=1, strict=False)] = (256, 256, 128)
    kernel_sizes: Annotated[tuple[Kernel, ...], Field(min_length=1, strict=False)] = (5, 5, 5)
    pool: int = Field(default=1, ge=1, le=8)  # side of the max-pooling after each convolution; 1: none
    hidden: Annotated[tuple[Count, ...], Field(strict=False)] = (328, 192)  # units of fully connected layers
    dropout: float = Field(default=0.5, ge=0, lt=1)  # share of the last layer's inputs that a step leaves out


Model = Annotated[
    Annotated[CapsNetModel, Tag("capsnet")]
    | Annotated[MatrixCapsNetModel, Tag("matrix_capsnet")]
    | Annotated[EfficientCapsNetModel, Tag("efficient_capsnet")]
    | Annotated[CNNModel, Tag("cnn")],
    tagged("name", "capsnet"),
]


class MarginLoss(Section):
    """The paper's Equation 4, and reconstruction beside it."""

    name: Literal["margin"] = "margin"
    with_reconstruction: bool = True
    rc_loss_weight: NotNegative = PAPER_RECONSTRUCTION_WEIGHT  # times the *summed* squared error
    margin: Literal["paper", "authors"] = "paper"  # "authors": half of Equation 4, averaged over the classes


class SpreadLoss(Section):
    """The spread loss of matrix capsules (Hinton et al. 2018, Equation 3); its margin rises by the step."""

    name: Literal["spread"] = "spread"
    first_margin: float = Field(default=0.2, ge=0, le=1)
    last_margin: float = Field(default=0.9, gt=0, le=1)
    rising_epochs: Count = 10  # in epochs: how long the margin takes from the first to the last


class CrossEntropy(Section):
    """Cross-entropy of the classes; where an image has several labels, of each class by itself.

    Of self-routing, whose activations sum to 1, it is their negative log-likelihood.
    """

    name: Literal["cross_entropy"] = "cross_entropy"
    with_reconstruction: bool = False
    rc_loss_weight: NotNegative = PAPER_RECONSTRUCTION_WEIGHT  # as in the margin loss


Loss = Annotated[
    Annotated[MarginLoss, Tag("margin")]
    | Annotated[SpreadLoss, Tag("spread")]
    | Annotated[CrossEntropy, Tag("cross_entropy")],
    tagged("name", "margin"),
]

# What a model is trained for where the YAML does not say.
LOSS_OF = {"matrix_capsnet": "spread", "cnn": "cross_entropy"}
