"""From a configuration to the splits of a data set."""

from __future__ import annotations

from sterna.config import DataConfig
from sterna.data.dataset import DataSplits
from sterna.errors import ConfigError


def load_data(config: DataConfig, seed: int = 0) -> DataSplits:
    """Open a data set by name.

    Args:
        config: which data set, where, and how it is split and preprocessed.
        seed: of the augmentation; the split never depends on it.

    Raises:
        ConfigError: a value does not fit the data set.
        DataError: data are missing or damaged.
        MissingDependencyError: a package that the data set needs is not installed.
    """
    for key in ("vertical_flip", "skip_empty"):
        if getattr(config, key) and config.name != "coco":
            raise ConfigError(f"data.{key} is only for coco, got it for {config.name}")
    # Imported here because only one of them is needed, and image folders bring torchvision with them.
    if config.name == "image-folder":
        from sterna.data.image_folder import load_image_folder

        return load_image_folder(config, seed)
    if config.name == "shards":
        from sterna.data.shards import load_shards

        return load_shards(config, seed)
    if config.name == "coco":
        from sterna.data.coco import load_coco

        return load_coco(config, seed)
    if config.image_size is not None:
        raise ConfigError(
            f"data.image_size is only for image-folder and shards, got {config.image_size} for {config.name}"
        )
    if config.workers:
        raise ConfigError(
            f"data.workers is only for image-folder, shards and coco, got {config.workers} for {config.name}"
        )
    if config.skip_unreadable:
        raise ConfigError(f"data.skip_unreadable is only for image-folder, shards and coco, got it for {config.name}")
    if config.name == "cifar10":
        from sterna.data.cifar import load_cifar10

        return load_cifar10(config, seed)
    from sterna.data.digits import load_digits

    return load_digits(config, seed)
