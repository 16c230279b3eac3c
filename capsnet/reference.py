"""The paper's network in plain arrays, forward and backward by hand: for readers, and for tests.

Everything is written as the paper has it (Sabour, Frosst, Hinton 2017, "Dynamic Routing Between
Capsules"), slow and obvious: the predictions û are formed, the logits are kept, every iteration of
routing is the same few lines. Routing by attention (Mazzia et al. 2021) stands beside it. Each function
stands above its gradient, `..._backward`, which takes the gradient of the loss for the function's results
and returns the gradient for the function's arguments.

Arrays keep the precision that they come with (float64 in tests). The functions on arrays are taken from
the module of the input, so that CuPy's arrays do as well as NumPy's.

Letters of shapes: B batch, C channels, H height, W width, F filters of the first convolution, N size of a
kernel, T types of primary capsules, I input capsules, K their dimension, J output capsules (classes), D
their dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

Array = Any  # of NumPy, or of a module that has NumPy's functions
Parameters = Mapping[str, Array]  # by the names that the trained network gives them

PRIMARY_STRIDE = 2
PRESENT_MARGIN, ABSENT_MARGIN, ABSENT_WEIGHT = 0.9, 0.1, 0.5  # m⁺, m⁻ and λ of Equation 4


@dataclass(frozen=True)
class Settings:
    """Settings that no parameter's shape shows; "authors", "softmax", "leaky" are the authors' code.

    Attention has neither iterations nor their gradient, and `none_of_the_above` only dynamic routing.
    """

    iterations: int = 3
    gradient: Literal["full", "detached"] = "full"
    routing: Literal["dynamic", "attention"] = "dynamic"
    none_of_the_above: bool = False
    padding: Literal["valid", "same"] = "valid"  # of the first convolution
    primary_padding: Literal["valid", "same"] = "valid"
    primary_dim: int = 8
    primary_routing: Literal["squash", "softmax", "leaky"] = "squash"
    margin: Literal["paper", "authors"] = "paper"
    reconstruction_weight: float = 0.0005


@dataclass(frozen=True)
class Iteration:
    """One iteration of routing."""

    couplings: Array  # c [B, I, J]
    inputs: Array  # s [B, J, D]
    outputs: Array  # v [B, J, D]


@dataclass(frozen=True)
class Forward:
    """Results of a forward pass on a batch, with all values that its gradient needs again."""

    filtered: Array  # [B, F, H, W], before the ReLU
    primary_inputs: Array  # [B, T·K, H, W], before squashing
    primary: Array  # u [B, I, K]
    predictions: Array  # û [B, I, J, D]
    iterations: list[Iteration]
    capsules: Array  # [B, J, D]
    lengths: Array  # [B, J]


@dataclass(frozen=True)
class Losses:
    """The mean loss of a batch, its two parts per image, and the gradient of the mean loss."""

    loss: Array  # a number
    margin: Array  # [B]
    reconstruction: Array | None  # [B], without its weight; None without a decoder
    gradients: Parameters


def losses(parameters: Parameters, images: Array, labels: Array, settings: Settings) -> Losses:
    """Compute the loss of images [B, C, H, W] with integer labels [B], and every parameter's gradient."""
    passed = forward(parameters, images, settings)
    present = array_module(images).eye(passed.lengths.shape[1], dtype=images.dtype)[labels]
    margin = margin_loss(passed.lengths, present, settings.margin)
    d_lengths = margin_loss_backward(passed.lengths, present, settings.margin) / len(images)
    d_capsules = norm_backward(passed.capsules, d_lengths[..., None])
    loss, reconstruction, gradients = margin.mean(), None, {}
    if decoder_layers(parameters):
        values = decoder(parameters, passed.capsules * present[..., None])
        errors = values[-1] - images.reshape(len(images), -1)
        reconstruction = (errors**2).sum(1)
        loss = loss + settings.reconstruction_weight * reconstruction.mean()
        d_pixels = 2 * settings.reconstruction_weight / len(images) * errors
        d_masked, gradients = decoder_backward(parameters, values, d_pixels)
        d_capsules = d_capsules + d_masked.reshape(d_capsules.shape) * present[..., None]
    gradients = gradients | backward(parameters, images, passed, d_capsules, settings)
    return Losses(loss, margin, reconstruction, gradients)


def forward(parameters: Parameters, images: Array, settings: Settings) -> Forward:
    """Pass images [B, C, H, W] through both convolutions and the routing."""
    size, primary_size = parameters["conv.weight"].shape[-1], parameters["primary.weight"].shape[-1]
    framed = padded(images, size, 1, settings.padding)
    filtered = convolution(framed, parameters["conv.weight"], stride=1) + channelwise(parameters["conv.bias"])
    features = padded(relu(filtered), primary_size, PRIMARY_STRIDE, settings.primary_padding)
    outputs = convolution(features, parameters["primary.weight"], PRIMARY_STRIDE)
    share = primary_share(parameters, settings)
    primary_inputs = share * outputs + channelwise(parameters["primary.bias"])
    primary = squash(cut(primary_inputs, settings.primary_dim))
    predictions = array_module(images).einsum("bik,jikd->bijd", primary, transformations(parameters, primary))
    bias = parameters.get("classes.bias", 0.0)
    if settings.routing == "attention":
        iterations = [attention(predictions, bias)]
    else:
        iterations = routing(predictions, bias, settings.iterations, settings.none_of_the_above)
    capsules = iterations[-1].outputs
    return Forward(
        filtered, primary_inputs, primary, predictions, iterations, capsules, norm(capsules)[..., 0]
    )


def backward(
    parameters: Parameters, images: Array, passed: Forward, gradient: Array, settings: Settings
) -> dict[str, Array]:
    """Compute the gradients of all parameters below the class capsules from the capsules' own [B, J, D]."""
    xp = array_module(images)
    if settings.routing == "attention":
        d_predictions, d_classes_bias = attention_backward(passed.predictions, passed.iterations[0], gradient)
    else:
        d_predictions, d_classes_bias = routing_backward(
            passed.predictions, passed.iterations, gradient, settings.gradient
        )
    d_transformations = xp.einsum("bijd,bik->jikd", d_predictions, passed.primary)
    d_primary = xp.einsum("bijd,jikd->bik", d_predictions, transformations(parameters, passed.primary))
    d_cut = squash_backward(cut(passed.primary_inputs, settings.primary_dim), d_primary)
    d_primary_inputs = cut_backward(passed.primary_inputs, d_cut)
    size, primary_size = parameters["conv.weight"].shape[-1], parameters["primary.weight"].shape[-1]
    d_features, d_primary_weight = convolution_backward(
        padded(relu(passed.filtered), primary_size, PRIMARY_STRIDE, settings.primary_padding),
        parameters["primary.weight"],
        PRIMARY_STRIDE,
        primary_share(parameters, settings) * d_primary_inputs,
    )
    d_relu = padded_backward(
        passed.filtered, primary_size, PRIMARY_STRIDE, settings.primary_padding, d_features
    )
    d_filtered = relu_backward(passed.filtered, d_relu)
    framed = padded(images, size, 1, settings.padding)
    _, d_conv_weight = convolution_backward(framed, parameters["conv.weight"], 1, d_filtered)
    gradients = {
        "conv.weight": d_conv_weight,
        "conv.bias": d_filtered.sum((0, 2, 3)),
        "primary.weight": d_primary_weight,
        "primary.bias": d_primary_inputs.sum((0, 2, 3)),
        "classes.weight": d_transformations.reshape(parameters["classes.weight"].shape),
        "classes.bias": d_classes_bias,
    }
    return {name: value for name, value in gradients.items() if name in parameters}


def padded(images: Array, size: int, stride: int, padding: Literal["valid", "same"]) -> Array:
    """Pad images [B, C, H, W] for a convolution with kernels of `size`.

    With "same" the convolution takes a step for each `stride` pixels; an odd zero goes below and right.
    """
    if padding == "valid":
        return images
    frame = [zeros(side, size, stride) for side in images.shape[2:]]
    return array_module(images).pad(images, ((0, 0), (0, 0), *frame))


def padded_backward(
    images: Array, size: int, stride: int, padding: Literal["valid", "same"], gradient: Array
) -> Array:
    """Return the gradient without its values for the zeros."""
    if padding == "valid":
        return gradient
    (top, _), (left, _) = (zeros(side, size, stride) for side in images.shape[2:])
    return gradient[:, :, top : top + images.shape[2], left : left + images.shape[3]]


def zeros(side: int, size: int, stride: int) -> tuple[int, int]:
    """Return how many zeros go before and behind a side for a kernel to take ⌈side / stride⌉ steps."""
    steps = (side + stride - 1) // stride
    count = max((steps - 1) * stride + size - side, 0)
    return count // 2, count - count // 2


def convolution(images: Array, weight: Array, stride: int) -> Array:
    """Convolve [B, C, H, W] by kernels [F, C, N, N] to [B, F, H', W'], as a sum over the kernel's places."""
    xp = array_module(images)
    return sum(
        xp.einsum("bchw,fc->bfhw", pixels, weight[:, :, y, x], optimize=True)
        for y, x, pixels in places(images, weight.shape[-1], stride)
    )


def convolution_backward(images: Array, weight: Array, stride: int, gradient: Array) -> tuple[Array, Array]:
    """The gradients of the images and of the kernels."""
    xp = array_module(images)
    d_images, d_weight = xp.zeros_like(images), xp.zeros_like(weight)
    for y, x, pixels in places(images, weight.shape[-1], stride):
        d_weight[:, :, y, x] = xp.einsum("bfhw,bchw->fc", gradient, pixels, optimize=True)
    for y, x, d_pixels in places(d_images, weight.shape[-1], stride):
        d_pixels += xp.einsum("bfhw,fc->bchw", gradient, weight[:, :, y, x], optimize=True)
    return d_images, d_weight


def places(images: Array, size: int, stride: int) -> Iterator[tuple[int, int, Array]]:
    """Yield each place (y, x) of a kernel with a view of the pixels that meet it, [B, C, H', W']."""
    height, width = images.shape[2] - size + 1, images.shape[3] - size + 1
    for y in range(size):
        for x in range(size):
            yield y, x, images[:, :, y : y + height : stride, x : x + width : stride]


def channelwise(bias: Array) -> Array:
    """Return a bias [F] in a shape to be added to [B, F, H, W]."""
    return bias[:, None, None]


def relu(inputs: Array) -> Array:
    return inputs * (inputs > 0)


def relu_backward(inputs: Array, gradient: Array) -> Array:
    return gradient * (inputs > 0)


def cut(outputs: Array, dim: int) -> Array:
    """Cut [B, T·K, H, W] into [B, I, K]: a capsule is K neighbouring channels at *one* position."""
    return outputs.transpose(0, 2, 3, 1).reshape(len(outputs), -1, dim)


def cut_backward(outputs: Array, gradient: Array) -> Array:
    batch, channels, height, width = outputs.shape
    return gradient.reshape(batch, height, width, channels).transpose(0, 3, 1, 2)


def primary_share(parameters: Parameters, settings: Settings) -> float:
    """Return the factor of what primary capsules get: 1; in the authors' code 1/T, from one pass of routing
    by one input to T types.

    1/(T + 1) where the input may go to none of them as well.
    """
    types = len(parameters["primary.bias"]) // settings.primary_dim
    return (
        1.0 if settings.primary_routing == "squash" else 1.0 / (types + (settings.primary_routing == "leaky"))
    )


def norm(vectors: Array) -> Array:
    """Compute lengths along the last dimension, which is kept with size 1."""
    return array_module(vectors).sqrt((vectors**2).sum(-1, keepdims=True))


def norm_backward(vectors: Array, gradient: Array) -> Array:
    """The gradient along the vector itself; 0, one of the possible slopes, for the vector 0."""
    length = norm(vectors)
    return gradient * vectors / (length + (length == 0))


def squash(inputs: Array) -> Array:
    """v = ‖s‖² / (1 + ‖s‖²) · s / ‖s‖ along the last dimension (Equation 1), which is f(‖s‖) s."""
    length = norm(inputs)
    return inputs * length / (1 + length**2)


def squash_backward(inputs: Array, gradient: Array) -> Array:
    """f(n) dv + f′(n) (s·dv) dn/ds, where f(n) = n / (1 + n²) and f′(n) = (1 - n²) / (1 + n²)²."""
    length = norm(inputs)
    d_length = (inputs * gradient).sum(-1, keepdims=True) * (1 - length**2) / (1 + length**2) ** 2
    return gradient * length / (1 + length**2) + norm_backward(inputs, d_length)


def transformations(parameters: Parameters, primary: Array) -> Array:
    """The matrices W [J, I, K, D] of ûᵢⱼ = uᵢ Wᵢⱼ (Equation 2)."""
    weight = parameters["classes.weight"]
    return weight.reshape(len(weight), *primary.shape[1:], weight.shape[-1])


def routing(
    predictions: Array, bias: Array | float, iterations: int, none_of_the_above: bool = False
) -> list[Iteration]:
    """Run Procedure 1 on predictions û [B, I, J, D]; the last iteration's outputs are the class capsules.

    A bias [J, D], added to every s, is the authors'. With `none_of_the_above` (section 7) a part of each
    input capsule goes to none of the output capsules: its logit is 0 and stays 0.
    """
    xp = array_module(predictions)
    logits = xp.zeros_like(predictions[..., 0])
    done = []
    for _ in range(iterations):
        couplings = softmax(logits, none_of_the_above)  # over the J *output* capsules (Equation 3)
        inputs = xp.einsum("bij,bijd->bjd", couplings, predictions) + bias
        outputs = squash(inputs)
        logits = logits + xp.einsum("bijd,bjd->bij", predictions, outputs)
        done.append(Iteration(couplings, inputs, outputs))
    return done


def routing_backward(
    predictions: Array, iterations: Sequence[Iteration], gradient: Array, flow: Literal["full", "detached"]
) -> tuple[Array, Array]:
    """The gradients of the predictions [B, I, J, D] and of the bias [J, D].

    The logits of an iteration are those of the one before plus û·v, so their gradient adds up on its way
    back. "detached" ends with the last iteration, whose couplings it takes for constants.
    """
    xp = array_module(predictions)
    d_predictions, d_bias = xp.zeros_like(predictions), xp.zeros_like(gradient[0])
    d_logits = xp.zeros_like(predictions[..., 0])
    d_outputs = gradient
    for index in reversed(range(len(iterations))):
        couplings = iterations[index].couplings
        d_inputs = squash_backward(iterations[index].inputs, d_outputs)
        d_bias += d_inputs.sum(0)
        d_predictions += xp.einsum("bij,bjd->bijd", couplings, d_inputs)
        if index == 0 or flow == "detached":
            break
        d_couplings = xp.einsum("bijd,bjd->bij", predictions, d_inputs)
        d_logits += softmax_backward(couplings, d_couplings)
        d_predictions += xp.einsum("bij,bjd->bijd", d_logits, iterations[index - 1].outputs)
        d_outputs = xp.einsum("bij,bijd->bjd", d_logits, predictions)
    return d_predictions, d_bias


def attention(predictions: Array, bias: Array | float) -> Iteration:
    """Self-attention on predictions û [B, I, J, D] (Mazzia et al. 2021), with Equation 1 as its squash.

    The logit of an input capsule is the sum of the products of its prediction with those of all others.
    """
    xp = array_module(predictions)
    logits = xp.einsum("bijd,bkjd->bij", predictions, predictions) / predictions.shape[-1] ** 0.5
    couplings = softmax(logits)
    inputs = xp.einsum("bij,bijd->bjd", couplings, predictions) + bias
    return Iteration(couplings, inputs, squash(inputs))


def attention_backward(predictions: Array, passed: Iteration, gradient: Array) -> tuple[Array, Array]:
    """The gradients of the predictions [B, I, J, D] and of the bias [J, D].

    A prediction counts three times: in what is collected, as one side of its products, and as the other.
    """
    xp = array_module(predictions)
    d_inputs = squash_backward(passed.inputs, gradient)
    d_couplings = xp.einsum("bijd,bjd->bij", predictions, d_inputs)
    d_logits = softmax_backward(passed.couplings, d_couplings) / predictions.shape[-1] ** 0.5
    d_predictions = xp.einsum("bij,bjd->bijd", passed.couplings, d_inputs)
    d_predictions += xp.einsum("bij,bkjd->bijd", d_logits, predictions)
    d_predictions += xp.einsum("bkj,bkjd->bjd", d_logits, predictions)[:, None]
    return d_predictions, d_inputs.sum(0)


def softmax(logits: Array, none_of_the_above: bool = False) -> Array:
    """Softmax along the last dimension, where one more logit of 0 may take a share that is left out."""
    highest = logits.max(-1, keepdims=True)
    highest = relu(highest) if none_of_the_above else highest
    exp = array_module(logits).exp
    powers = exp(logits - highest)
    return powers / (powers.sum(-1, keepdims=True) + (exp(-highest) if none_of_the_above else 0.0))


def softmax_backward(shares: Array, gradient: Array) -> Array:
    """The gradient of the logits; true also where a share is left out: its own gradient is 0."""
    return shares * (gradient - (shares * gradient).sum(-1, keepdims=True))


def margin_loss(lengths: Array, present: Array, form: Literal["paper", "authors"]) -> Array:
    """Equation 4 for lengths [B, J] and `present` [B, J], 1 for the class that is there, else 0 -> [B]."""
    too_short, too_long = relu(PRESENT_MARGIN - lengths), relu(lengths - ABSENT_MARGIN)
    parts = present * too_short**2 + ABSENT_WEIGHT * (1 - present) * too_long**2
    return margin_share(form, lengths) * parts.sum(1)


def margin_loss_backward(lengths: Array, present: Array, form: Literal["paper", "authors"]) -> Array:
    """The gradient [B, J] of the sum over the batch."""
    too_short, too_long = relu(PRESENT_MARGIN - lengths), relu(lengths - ABSENT_MARGIN)
    gradient = -2 * present * too_short + 2 * ABSENT_WEIGHT * (1 - present) * too_long
    return margin_share(form, lengths) * gradient


def margin_share(form: Literal["paper", "authors"], lengths: Array) -> float:
    """Return the factor of the margin loss: 1; the authors' code halves it and averages over the classes."""
    return 1.0 if form == "paper" else 0.5 / lengths.shape[1]


def decoder(parameters: Parameters, masked: Array) -> list[Array]:
    """Return the inputs of each fully connected layer, [B, features], and last the pixels [B, C·H·W]."""
    xp = array_module(masked)
    values = [masked.reshape(len(masked), -1)]
    names = decoder_layers(parameters)
    for name in names:
        inputs = values[-1] @ parameters[f"{name}.weight"].T + parameters[f"{name}.bias"]
        values.append(1 / (1 + xp.exp(-inputs)) if name == names[-1] else relu(inputs))
    return values


def decoder_backward(
    parameters: Parameters, values: Sequence[Array], gradient: Array
) -> tuple[Array, dict[str, Array]]:
    """The gradients of the masked capsules, [B, J·D], and of each layer's weight and bias."""
    gradients = {}
    d_inputs = gradient * values[-1] * (1 - values[-1])  # through the sigmoid
    for name, taken in reversed(list(zip(decoder_layers(parameters), values[:-1], strict=True))):
        gradients[f"{name}.weight"] = d_inputs.T @ taken
        gradients[f"{name}.bias"] = d_inputs.sum(0)
        gradient = d_inputs @ parameters[f"{name}.weight"]
        d_inputs = relu_backward(taken, gradient)  # a ReLU's output is positive where its input was
    return gradient, gradients


def decoder_layers(parameters: Parameters) -> list[str]:
    """The names of the decoder's layers, first to last; none without a decoder."""
    names = {name.rpartition(".")[0] for name in parameters if name.startswith("decoder.")}
    return sorted(names, key=lambda name: int(name.rpartition(".")[2]))


def array_module(array: Array) -> ModuleType:
    """NumPy for NumPy's arrays, CuPy for CuPy's."""
    return import_module(type(array).__module__.partition(".")[0])
