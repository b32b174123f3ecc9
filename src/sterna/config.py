"""Frozen, validated configuration: what a recipe file is parsed into and what every ``.sterna`` file stores.

Each model refuses unknown keys, wrong types and impossible values when it is made, so that no later code
has to check them again. YAML reading and ``--set`` overrides live in :mod:`sterna.train.recipe`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
OpenFraction = Annotated[float, Field(ge=0.0, lt=1.0)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
IntegerOrZero = Annotated[int, Field(ge=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)


class ModelConfig(_Frozen):
    """A network that Sterna can build by name, and the weights it starts from."""

    name: str = Field(description="cifar_resnet20, digits_cnn, torchvision:resnet18, timm:NAME, ...")
    arguments: dict[str, JsonValue] = Field(default={}, description="keyword arguments of the constructor")
    weights: str | None = Field(
        default=None, description="safetensors or torch file; relative paths are looked up here, then in STERNA_DATA"
    )
    license: str | None = Field(default=None, description="licence of the weights, for the file's metadata")


class DataConfig(_Frozen):
    """A data set, its split and its preprocessing."""

    name: Literal["cifar10", "digits", "image-folder"]
    path: str | None = Field(default=None, description="folder; relative paths are looked up here, then in STERNA_DATA")
    validation_size: IntegerOrZero = Field(
        default=0, description="training images held out for validation; 0 validates on the test split"
    )
    augment: bool = Field(default=True, description="random crop and flip of training images")
    image_size: Count | None = Field(default=None, description="side in pixels; only for image-folder")
    mean: tuple[float, ...] | None = Field(default=None, description="per channel, of pixels in 0..1")
    std: tuple[Positive, ...] | None = Field(default=None, description="per channel, of pixels in 0..1")
    workers: IntegerOrZero = Field(default=0, description="processes that decode images; only for image-folder")


class TernaryConfig(_Frozen):
    """Which layers become ternary, and how (docs/method.md)."""

    sparsity: OpenFraction = Field(default=0.7, description="fraction of zeros over all ternary layers")
    threshold: Literal["ratio", "optimal"] = Field(
        default="ratio",
        description="'ratio' zeroes the given fraction; 'optimal' takes the least-squares threshold of each layer",
    )
    allocation: Literal["layer", "global"] = Field(
        default="global", description="the same fraction in every layer, or one threshold on RMS-normalised weights"
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
    """Soft targets: loss = (1 - weight) CE(y) + weight T^2 KL(teacher / T || student / T)."""

    weight: Fraction = 0.7
    temperature: Positive = 4.0
    teacher: ModelConfig | None = Field(default=None, description="nothing means the uncompressed model itself")


class TrainConfig(_Frozen):
    """The training loop."""

    epochs: Count = 30
    batch_size: Count = Field(default=128, description="over all processes together")
    precision: Literal["float32", "bfloat16"] = "bfloat16"
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
    checkpoint_steps: Count = Field(default=200, description="steps between two checkpoints")


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
    model: ModelConfig
    data: DataConfig
    ternary: TernaryConfig = TernaryConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    distillation: DistillationConfig | None = None
    train: TrainConfig = TrainConfig()
    storage: StorageConfig = StorageConfig()

    @model_validator(mode="after")
    def _phases_fit(self) -> Self:
        schedule, epochs = self.schedule, self.train.epochs
        before = schedule.dense_epochs + max(schedule.ramp_epochs, schedule.prune_epochs)
        if before + schedule.freeze_epochs > epochs:
            raise ValueError(
                f"schedule needs {before + schedule.freeze_epochs:g} epochs (dense + ramp or prune + freeze), "
                f"train.epochs is {epochs}"
            )
        return self
