"""Which data set a command reads: that of a file's recipe, or another one."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sterna.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sterna.config import DataConfig


class Split(StrEnum):
    """The part of a data set to look at."""

    test = "test"
    validation = "validation"
    train = "train"


def data_config(metadata: Mapping[str, Any], data: str | None, file: str) -> DataConfig:
    """The data set of the file's recipe, or another one with the preprocessing of the file; never augmented.

    Args:
        metadata: of the file.
        data: ``NAME:PATH``, or nothing.
        file: its name, for messages.

    Raises:
        ConfigError: there is no such data set, or a value does not fit it.
        DataError: neither the file nor ``data`` says which.
    """
    from pydantic import ValidationError

    from sterna.config import DataConfig

    recipe = metadata.get("recipe")
    values = dict(recipe["data"]) if isinstance(recipe, dict) and isinstance(recipe.get("data"), dict) else {}
    if data is not None:
        name, _, path = data.partition(":")
        if name != values.get("name"):
            values = _preprocessing(metadata, name)
        values |= {"name": name, "path": path or None}
    if not values:
        raise DataError(f"{file} does not say which data it was made for: give --data NAME:PATH")
    try:
        return DataConfig.model_validate_json(json.dumps({**values, "augment": False}))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key, got, place = ".".join(map(str, problem["loc"])), problem["input"], "--data" if data is not None else file
        raise ConfigError(f"{place}: data {key} {json.dumps(got)} is not allowed: {problem['msg']}") from None


def _preprocessing(metadata: Mapping[str, Any], name: str) -> dict[str, Any]:
    stored = metadata.get("preprocessing")
    stored = stored if isinstance(stored, dict) else {}
    values = {key: stored[key] for key in ("mean", "std") if key in stored}
    if name in ("image-folder", "shards") and isinstance(stored.get("input_shape"), list):
        values["image_size"] = stored["input_shape"][-1]
    return values
