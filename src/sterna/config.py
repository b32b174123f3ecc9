"""Frozen, validated configuration: what a recipe file is parsed into and what every ``.sterna`` file stores.

Each model refuses unknown keys, wrong types and impossible values when it is made, so that no later code
has to check them again. YAML reading and ``--set`` overrides live in :mod:`sterna.train.recipe`.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
OpenFraction = Annotated[float, Field(ge=0.0, lt=1.0)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
IntegerOrZero = Annotated[int, Field(ge=0)]


_SIZE = re.compile(r"^([0-9]+(?:\.[0-9]+)?) ?(B|[kK]B|MB|GB|KiB|MiB|GiB)$")
_UNITS = {"B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "KIB": 1024, "MIB": 1024**2, "GIB": 1024**3}


def _parse_size(value: str) -> str:
    bytes_of(value)
    return value


FileSize = Annotated[str, AfterValidator(_parse_size)]


def bytes_of(size: str) -> int:
    """Bytes of a text such as ``939KB`` (1,000 bytes), ``0.84 MB`` or ``900KiB`` (1,024 bytes).

    Raises:
        ValueError: it is no such text, or less than one byte.
    """
    match = _SIZE.match(size)
    count = round(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if count < 1:
        raise ValueError("must be a number of bytes with its unit, such as 939KB, 3.3MB or 900KiB")
    return count


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)


class ModelConfig(_Frozen):
    """A network that Sterna can build by name, and the weights it starts from."""

    name: str = Field(description="cifar_resnet20, digits_cnn, torchvision:resnet18, timm:NAME, ...")
    arguments: dict[str, JsonValue] = Field(default={}, description="keyword arguments of the constructor")
    weights: str | None = Field(
        default=None, description="safetensors or torch file; relative paths are looked up here, then in STERNA_DATA"
    )
    weights_prefix: str = Field(
        default="", description="put before the names in the file: 'backbone.body.' gives a detector its backbone"
    )
    fresh: tuple[str, ...] = Field(
        default=(),
        description="patterns of tensors that are not read from the file: the classifier for classes of one's own",
    )
    license: str | None = Field(default=None, description="licence of the weights, for the file's metadata")


class DataConfig(_Frozen):
    """A data set, its split and its preprocessing."""

    name: Literal["cifar10", "digits", "image-folder", "shards", "coco"]
    path: str | None = Field(default=None, description="folder; relative paths are looked up here, then in STERNA_DATA")
    validation_size: IntegerOrZero = Field(
        default=0, description="training images held out for validation; 0 validates on the test split"
    )
    augment: bool = Field(default=True, description="random crop and flip of training images")
    image_size: Count | None = Field(default=None, description="side in pixels; only for image-folder and shards")
    mean: tuple[float, ...] | None = Field(default=None, description="per channel, of pixels in 0..1")
    std: tuple[Positive, ...] | None = Field(default=None, description="per channel, of pixels in 0..1")
    workers: IntegerOrZero = Field(
        default=0, description="processes that decode images; only for image-folder, shards and coco"
    )
    skip_unreadable: bool = Field(
        default=False,
        description="decode every picture when the run begins, and leave out those that cannot be; they are counted",
    )
    vertical_flip: bool = Field(default=False, description="also flip training images upside down; only for coco")
    skip_empty: bool = Field(default=False, description="do not train on images without objects; only for coco")


class TernaryConfig(_Frozen):
    """Which layers become ternary, and how (docs/method.md)."""

    sparsity: OpenFraction = Field(default=0.7, description="fraction of zeros over all ternary layers")
    target_size: FileSize | None = Field(
        default=None,
        description="largest size of the whole file, as 939KB, 3.3MB or 900KiB; the fraction of zeros follows from it, "
        "and 'sparsity' is only where its search begins",
    )
    threshold: Literal["ratio", "optimal"] = Field(
        default="ratio",
        description="'ratio' zeroes the given fraction; 'optimal' takes the least-squares threshold of each layer",
    )
    allocation: Literal["layer", "global"] = Field(
        default="global", description="the same fraction in every layer, or one threshold on RMS-normalised weights"
    )
    importance: dict[str, Positive] = Field(
        default={},
        description="by pattern, with allocation 'global': factors on the normalised weights of layers, so that those "
        "above 1 keep more of them; where several patterns match, the last one counts",
    )
    group: Literal["filter", "layer"] = Field(default="filter", description="weights that share one scale")
    scale: Literal["unit", "norm", "least-squares", "learned"] = "least-squares"
    gradient: Literal["straight-through", "scaled", "sphere-masked", "sphere"] = Field(
        default="straight-through", description="variants G0, G1, G2, G3 of docs/method.md"
    )
    pull: NonNegative = Field(
        default=0.0, description="G4: strength of the pull of latent weights to their ternary image"
    )
    sharpness: NonNegative = Field(
        default=0.0, description="G4: sigmoid-shaped gradient factor of this sharpness; 0 switches it off"
    )
    include: tuple[str, ...] = Field(default=("*",), description="patterns of layer names that become ternary")
    exclude: tuple[str, ...] = Field(default=(), description="patterns of layer names that stay in floating point")
    first_convolution: Literal["float", "ternary"] = "float"
    depthwise: Literal["ternary", "int8", "float"] = Field(
        default="int8",
        description="convolutions with one channel a group; int8 trains them in floating point and stores them in int8",
    )

    @model_validator(mode="after")
    def _size_decides_zeros(self) -> Self:
        if self.target_size is not None and self.threshold == "optimal":
            raise ValueError("target_size needs threshold 'ratio': 'optimal' chooses the zeros by itself")
        return self

    @model_validator(mode="after")
    def _importance_needs_one_threshold(self) -> Self:
        if self.importance and (self.allocation != "global" or self.threshold != "ratio"):
            raise ValueError(
                "importance needs allocation 'global' and threshold 'ratio': it moves zeros between layers"
            )
        return self


class ScheduleConfig(_Frozen):
    """The phases of training, in epochs (fractions of an epoch are allowed)."""

    dense_epochs: NonNegative = Field(default=0.0, description="floating-point warm-up before pruning")
    prune_epochs: NonNegative = Field(default=0.0, description="pruned but not yet ternary, while zeros ramp up")
    ramp_epochs: NonNegative = Field(
        default=3.0, description="length of the cubic ramp of zeros, from the end of dense_epochs"
    )
    initial_sparsity: OpenFraction = Field(default=0.3, description="zeros at the start of the ramp")
    freeze_epochs: NonNegative = Field(default=1.0, description="last epochs in which the thresholds no longer change")
    mask_interval: Count = Field(default=10, description="steps between two choices of the thresholds")


class OptimizerConfig(_Frozen):
    """The optimiser, its schedule (linear warm-up, then cosine to zero) and its regularisation."""

    name: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Positive = 0.05
    momentum: OpenFraction = 0.9
    nesterov: bool = False
    betas: tuple[OpenFraction, OpenFraction] = (0.9, 0.999)
    weight_decay: NonNegative = Field(default=1e-4, description="on latent weights only")
    warmup_epochs: NonNegative = 0.5
    gradient_clip: NonNegative = Field(default=0.0, description="largest L2 norm of the gradient; 0 switches it off")


class DistillationConfig(_Frozen):
    """Soft targets and features: (1 - weight) CE(y) + weight T^2 KL(teacher / T || student / T) + features."""

    weight: Fraction = 0.7
    temperature: Positive = 4.0
    teacher: ModelConfig | None = Field(default=None, description="nothing means the uncompressed model itself")
    features: tuple[str, ...] = Field(
        default=(), description="patterns of modules whose outputs should be like the teacher's: layer1, layer2.*"
    )
    feature_weight: NonNegative = Field(default=1.0, description="of the mean relative squared distance of features")
    local_epochs: NonNegative = Field(
        default=0.0,
        description="first epochs in which each module of 'features' learns alone, from the inputs of its twin in the "
        "teacher; for few images",
    )

    @model_validator(mode="after")
    def _local_needs_features(self) -> Self:
        if self.local_epochs > 0.0 and not self.features:
            raise ValueError("local_epochs needs features: the modules that learn alone")
        return self


class ReconstructionConfig(_Frozen):
    """Where training begins: layers rounded one after another so that their outputs stay, in closed form."""

    images: Count = Field(
        default=1000,
        description="training images from which the inputs of each layer are learnt; where there are fewer, they come "
        "again, augmented in another way",
    )
    places: Count = Field(
        default=64,
        description="outputs of a convolution that are looked at in each image; fewer take less time",
    )
    damping: Positive = Field(
        default=0.01, description="pull to the weights as they were, in mean squares of an input; more for fewer images"
    )
    sweeps: IntegerOrZero = Field(default=4, description="times that each trit is chosen anew after the first choice")


class TrainConfig(_Frozen):
    """The training loop."""

    epochs: Count = 30
    batch_size: Count = Field(default=128, description="over all processes together")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="of forward and backward passes; 'auto' is bfloat16 where the device has instructions for it, and "
        "float32 where it would be emulated, which takes ten times as long",
    )
    channels_last: bool = True
    compile: bool = False
    label_smoothing: OpenFraction = 0.0
    ema_decay: OpenFraction = Field(default=0.0, description="exponential moving average of weights; 0 switches it off")
    freeze_batch_norm: bool = Field(
        default=False, description="train with the running statistics that the batch norms came with"
    )
    batch_norm_batches: IntegerOrZero = Field(
        default=100, description="training batches that re-estimate batch norm after training; 0 switches it off"
    )
    validation_interval: Count = Field(default=1, description="epochs from one validation to the next")
    checkpoint_steps: Count = Field(default=200, description="steps between two checkpoints")


class DetectionConfig(_Frozen):
    """What only detectors have."""

    max_dets: Count = Field(
        default=100, description="detections of a class on an image that count in AP; crowded scenes need more"
    )
    feature_weight: NonNegative = Field(
        default=0.0,
        description="distillation: weight of the distance between the features of the backbone and those of the "
        "uncompressed model",
    )


class StorageConfig(_Frozen):
    """How a model is written to its file."""

    float_dtype: Literal["float16", "float32"] = Field(
        default="float16", description="of everything that is not ternary"
    )
    int8: tuple[str, ...] = Field(
        default=(),
        description="patterns of layers that are not ternary and are kept in int8, with a scale for each filter",
    )
    coder: Literal["small", "fast", "smallest", "auto"] = Field(
        default="small",
        description="of the trits: for size, for load time, for size above all, or chosen for each tensor",
    )


class Recipe(_Frozen):
    """One complete compression run: everything that decides its result, together with the data."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seed: IntegerOrZero = 0
    task: Literal["classification", "detection", "instance-segmentation"] = "classification"
    model: ModelConfig
    data: DataConfig
    ternary: TernaryConfig | None = Field(
        default=TernaryConfig(),
        description="null trains in floating point and writes NAME.safetensors, for a later run to begin with",
    )
    reconstruction: ReconstructionConfig | None = Field(
        default=None,
        description="begin with trits that keep the outputs of each layer, instead of trits of the largest weights; "
        "from trained weights",
    )
    schedule: ScheduleConfig = ScheduleConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    distillation: DistillationConfig | None = None
    detection: DetectionConfig | None = Field(default=None, description="only for detectors; null means the defaults")
    train: TrainConfig = TrainConfig()
    storage: StorageConfig = StorageConfig()

    @model_validator(mode="after")
    def _task_fits(self) -> Self:
        is_detection = self.task != "classification"
        if is_detection != (self.data.name == "coco"):
            raise ValueError(f"task {self.task} does not go with data.name {self.data.name}")
        if is_detection and self.distillation is not None:
            raise ValueError("distillation is for classification; detectors have detection.feature_weight")
        if not is_detection and self.detection is not None:
            raise ValueError("detection must be left out for task classification")
        return self

    @model_validator(mode="after")
    def _reconstruction_fits(self) -> Self:
        if self.reconstruction is None:
            return self
        if self.ternary is None or self.ternary.threshold == "optimal":
            raise ValueError("reconstruction needs ternary layers with threshold 'ratio'")
        if self.model.weights is None:
            raise ValueError("reconstruction needs model.weights: an untrained network has nothing to keep")
        if self.schedule.dense_epochs > 0.0 or self.schedule.prune_epochs > 0.0:
            raise ValueError("reconstruction begins with trits: dense_epochs and prune_epochs must be 0")
        return self

    @model_validator(mode="after")
    def _phases_fit(self) -> Self:
        if self.ternary is None:
            return self
        schedule, epochs = self.schedule, self.train.epochs
        before = schedule.dense_epochs + max(schedule.ramp_epochs, schedule.prune_epochs)
        if before + schedule.freeze_epochs > epochs:
            raise ValueError(
                f"schedule needs {before + schedule.freeze_epochs:g} epochs (dense + ramp or prune + freeze), "
                f"train.epochs is {epochs}"
            )
        return self
