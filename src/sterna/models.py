"""Networks by name, and the weights they start from.

``cifar_resnet20`` to ``cifar_resnet56`` and ``digits_cnn`` are built here, ``maskrcnn_resnet18_fpn`` and the like in
:mod:`sterna.detectors`; ``torchvision:NAME`` and ``timm:NAME`` are built by those libraries, always without their
pretrained weights.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sterna.data.paths import resolve_data_path
from sterna.detectors import detector_names, find_detector
from sterna.errors import ConfigError, DataError, MissingDependencyError

if TYPE_CHECKING:
    from sterna.config import ModelConfig

TORCHVISION_PREFIX = "torchvision:"
TIMM_PREFIX = "timm:"

_NAMES_IN_MESSAGE = 3


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut that has no parameters (option A).

    ``y = relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))``; where the block halves the resolution, the shortcut
    takes every second pixel and pads the channels with zeros on both sides.

    Args:
        in_channels: of the input.
        out_channels: of the output; ``in_channels`` or twice as many.
        stride: of the first convolution; 1 or 2.

    References:
        He et al.: Deep residual learning for image recognition, arXiv 1512.03385, section 4.2.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.channel_padding = (out_channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, in_channels, h, w)`` to ``(n, out_channels, ceil(h / stride), ceil(w / stride))``."""
        shortcut = x
        if self.stride != 1 or self.channel_padding:
            padding = (0, 0, 0, 0, self.channel_padding, self.channel_padding)
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], padding)
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + shortcut)


class CifarResNet(nn.Module):
    """The ResNet for 32x32 images: three stages of 16, 32 and 64 channels; ``depth = 6 * blocks + 2``.

    Args:
        blocks: basic blocks in each stage; 3, 5, 7, 9 for ResNet-20, 32, 44, 56.
        num_classes: outputs.

    References:
        He et al.: Deep residual learning for image recognition, arXiv 1512.03385, section 4.2.
    """

    def __init__(self, blocks: int, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, stride=1)
        self.layer2 = self._stage(16, 32, blocks, stride=2)
        self.layer3 = self._stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)
        _initialize(self)

    @staticmethod
    def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(in_channels, out_channels, stride)
        return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(n, 3, h, w)`` to logits ``(n, num_classes)``."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


class DigitsCNN(nn.Module):
    """A small network for 8x8 digits: three 3x3 convolutions with batch norm, 56,000 weights.

    Args:
        num_classes: outputs.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(64)
        self.linear = nn.Linear(64, num_classes)
        _initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(n, 1, h, w)`` to logits ``(n, num_classes)``."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def _initialize(model: nn.Module) -> None:
    """He initialisation of convolutions and classifier (arXiv 1502.01852)."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


def cifar_resnet20(num_classes: int = 10) -> CifarResNet:
    """ResNet-20 for 32x32 images, 0.27 million weights."""
    return CifarResNet(3, num_classes)


def cifar_resnet32(num_classes: int = 10) -> CifarResNet:
    """ResNet-32 for 32x32 images, 0.46 million weights."""
    return CifarResNet(5, num_classes)


def cifar_resnet44(num_classes: int = 10) -> CifarResNet:
    """ResNet-44 for 32x32 images, 0.66 million weights."""
    return CifarResNet(7, num_classes)


def cifar_resnet56(num_classes: int = 10) -> CifarResNet:
    """ResNet-56 for 32x32 images, 0.85 million weights."""
    return CifarResNet(9, num_classes)


_OWN_MODELS: dict[str, Callable[..., nn.Module]] = {
    "cifar_resnet20": cifar_resnet20,
    "cifar_resnet32": cifar_resnet32,
    "cifar_resnet44": cifar_resnet44,
    "cifar_resnet56": cifar_resnet56,
    "digits_cnn": DigitsCNN,
    **{name: find_detector(name) for name in detector_names()},
}


def list_models() -> tuple[str, ...]:
    """Names that :func:`build_model` knows, without those of timm."""
    from torchvision.models import list_models as list_torchvision_models

    return (*_OWN_MODELS, *(TORCHVISION_PREFIX + name for name in list_torchvision_models()))


def build_model(model: ModelConfig | str, arguments: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a network by name, with freshly initialised weights.

    Args:
        model: ``cifar_resnet20``, ``digits_cnn``, ``torchvision:resnet18``, ``timm:NAME``, ..., or a configuration
            that holds such a name and the arguments.
        arguments: keyword arguments of the constructor, such as ``num_classes``; only together with a name.

    Raises:
        ConfigError: the name is unknown, or the network does not take these arguments.
        MissingDependencyError: the library that builds the network is not installed.
    """
    if isinstance(model, str):
        name, keywords = model, dict(arguments or {})
    elif arguments is None:
        name, keywords = model.name, dict(model.arguments)
    else:
        raise TypeError("arguments must be left out where a configuration is given, which holds its own")
    for key in ("weights", "weights_backbone", "pretrained", "pretrained_backbone"):
        if key in keywords:
            raise ConfigError(f"model.arguments.{key} is not allowed: name a file as model.weights instead")
    builder = _find_builder(name)
    try:
        return builder(**keywords)
    # Constructors check arguments in their own ways (a bad size is a RuntimeError of torch, for example).
    except (TypeError, ValueError, RuntimeError, AssertionError, KeyError, ZeroDivisionError) as error:
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise ConfigError(f"model '{name}' cannot be built with {keywords}: {reason}") from error


def _find_builder(name: str) -> Callable[..., nn.Module]:
    if name in _OWN_MODELS:
        return _OWN_MODELS[name]
    if name.startswith(TORCHVISION_PREFIX):
        return _torchvision_builder(name)
    if name.startswith(TIMM_PREFIX):
        return _timm_builder(name)
    raise _unknown_model(name, list_models())


def _torchvision_builder(name: str) -> Callable[..., nn.Module]:
    from torchvision.models import get_model_builder

    try:
        builder: Callable[..., nn.Module] = get_model_builder(name.removeprefix(TORCHVISION_PREFIX))
    except ValueError:
        raise _unknown_model(name, list_models()) from None
    # Detection models would otherwise download weights of their backbone.
    names = {"weights", "weights_backbone"} & inspect.signature(builder).parameters.keys()
    return lambda **arguments: builder(**dict.fromkeys(names), **arguments)


def _timm_builder(name: str) -> Callable[..., nn.Module]:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"model '{name}' needs timm: install it with  pip install timm") from error
    short = name.removeprefix(TIMM_PREFIX)
    if not timm.is_model(short):
        raise _unknown_model(name, [TIMM_PREFIX + known for known in timm.list_models()])
    return lambda **arguments: timm.create_model(short, pretrained=False, **arguments)


def _unknown_model(name: str, known: list[str] | tuple[str, ...]) -> ConfigError:
    # Names are compared both with and without prefix, so that "resnet18" finds "torchvision:resnet18".
    by_short_name = {full.rsplit(":", 1)[-1]: full for full in reversed(known)}
    short = name.rsplit(":", 1)[-1]
    matches = [by_short_name[match] for match in difflib.get_close_matches(short, by_short_name, _NAMES_IN_MESSAGE)]
    hint = f"; did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""
    return ConfigError(
        f"unknown model '{name}', allowed are {', '.join(_OWN_MODELS)}, {TORCHVISION_PREFIX}NAME and "
        f"{TIMM_PREFIX}NAME{hint}"
    )


def load_weights(model: nn.Module, path: str | os.PathLike[str], *, prefix: str = "", fresh: Sequence[str] = ()) -> str:
    """Fill a network with the tensors of a file; either all of it or nothing changes.

    Args:
        model: gets the tensors, by their ``state_dict`` names; its types and devices stay.
        path: a ``.safetensors`` file, or one of ``torch.save`` that holds tensors only (``{"state_dict": ...}`` and
            names that all start with ``module.`` are understood); looked up by
            :func:`~sterna.data.paths.resolve_data_path`.
        prefix: put before the names in the file, for a file that holds a part of the network.
        fresh: shell patterns of names (with the prefix) that are left as they are, in the network and in the file.

    Returns:
        SHA-256 of the file, in hexadecimal digits.

    Raises:
        ConfigError: a pattern of ``fresh`` matches no tensor of the network or the file.
        DataError: the file is missing or unreadable; a tensor is missing, unexpected or of another shape, or holds
            a value that is not finite.
    """
    file = resolve_data_path(path)
    tensors = _read_tensors(file)
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    tensors = {prefix + name: tensor for name, tensor in tensors.items()}
    names = {*tensors, *model.state_dict()}
    for pattern in fresh:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(f"model.fresh: pattern {pattern!r} matches no tensor of the model or of '{file}'")
    left_out = {name for name in names if any(fnmatchcase(name, pattern) for pattern in fresh)}
    tensors = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    _check_tensors(model, tensors, file, left_out)
    model.load_state_dict(tensors, strict=False)
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_tensors(file: Path) -> dict[str, Tensor]:
    content: Any
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    # torch and safetensors raise a dozen types for bad files, the unpickler nearly any.
    except Exception as error:
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise DataError(f"'{file}' cannot be read as weights: {reason}") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise DataError(f"'{file}' must hold tensors by name, or 'state_dict' with them")
    return dict(content)


def _check_tensors(model: nn.Module, tensors: Mapping[str, Tensor], file: Path, left_out: set[str]) -> None:
    expected = {name: tensor for name, tensor in model.state_dict().items() if name not in left_out}
    # Counters of batch norms that files of other tools leave out; they do not change what a network computes.
    needed = [name for name in expected if not name.endswith("num_batches_tracked")]
    problems = {
        "lacks": [name for name in needed if name not in tensors],
        "has unexpected": [name for name in tensors if name not in expected],
        "has other shapes for": [
            f"{name} (got {tuple(tensor.shape)}, needed {tuple(expected[name].shape)})"
            for name, tensor in tensors.items()
            if name in expected and tensor.shape != expected[name].shape
        ],
        "has values that are not finite in": [
            name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()
        ],
    }
    texts = [f"{problem} {_first_of(names)}" for problem, names in problems.items() if names]
    if texts:
        raise DataError(f"'{file}' does not fit {type(model).__name__}: {'; '.join(texts)}")


def _first_of(names: list[str]) -> str:
    rest = len(names) - _NAMES_IN_MESSAGE
    return ", ".join(names[:_NAMES_IN_MESSAGE]) + (f" and {rest} more" if rest > 0 else "")
