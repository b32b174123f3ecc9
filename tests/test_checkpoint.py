"""Checkpoints: whole or not there, and loaded without running code."""

from __future__ import annotations

import os
import pickle
import random
import signal
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits_runs import digits_recipe

from sterna.errors import CheckpointError
from sterna.train.checkpoint import (
    Checkpoint,
    check_resumable,
    checkpoint_path,
    load_checkpoint,
    random_state,
    save_checkpoint,
    set_random_state,
)


def make(step: int = 3, **changes: Any) -> Checkpoint:
    weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
    checkpoint = Checkpoint(
        recipe=digits_recipe().model_dump(mode="json"),
        source_sha256="ab" * 32,
        step=step,
        model={"weight": weight, "threshold": torch.tensor(0.5)},
        optimizer={"state": {0: {"momentum_buffer": weight}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        average=None,
        random_states=[random_state()],
        totals=torch.zeros(2, 3, dtype=torch.float64),
        signs={"layer": torch.zeros(2, dtype=torch.int8)},
        baseline={"top1": 90.0},
        best=None,
        final_sparsity=0.7,
        log_bytes=17,
        seconds=1.5,
    )
    return replace(checkpoint, **changes)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    saved = make()
    save_checkpoint(saved, tmp_path)
    loaded = load_checkpoint(tmp_path)
    for name in ("recipe", "source_sha256", "step", "baseline", "best", "average", "log_bytes", "seconds"):
        assert getattr(loaded, name) == getattr(saved, name)
    assert torch.equal(loaded.model["weight"], saved.model["weight"])
    assert torch.equal(loaded.optimizer["state"][0]["momentum_buffer"], saved.model["weight"])
    assert loaded.signs["layer"].dtype == torch.int8


def test_the_memory_format_survives(tmp_path: Path) -> None:
    weight = torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    save_checkpoint(make(model={"weight": weight}), tmp_path)
    assert load_checkpoint(tmp_path).model["weight"].stride() == weight.stride()


def test_a_newer_checkpoint_replaces_the_older_and_leaves_nothing_else(tmp_path: Path) -> None:
    save_checkpoint(make(3), tmp_path)
    save_checkpoint(make(5), tmp_path)
    assert load_checkpoint(tmp_path).step == 5
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["last.pt"]


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(make(3), tmp_path)
    partial = tmp_path / "checkpoint" / "last.pt.partial"
    partial.symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"^cannot write checkpoint .*last.pt: No space left on device$"):
        save_checkpoint(make(5), tmp_path)
    assert load_checkpoint(tmp_path).step == 3
    assert not partial.is_symlink()


@pytest.mark.parametrize("place", ["write", "rename"])
def test_ctrl_c_while_writing_leaves_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    save_checkpoint(make(3), tmp_path)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(*((os, "fsync") if place == "write" else (Path, "replace")), interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(make(5), tmp_path)
    assert load_checkpoint(tmp_path).step == 3
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["last.pt"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_text("a file where the folder should be")
    with pytest.raises(CheckpointError, match=r"^cannot write checkpoint .*: File exists$"):
        save_checkpoint(make(), tmp_path)


def test_a_folder_without_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint to resume from"):
        load_checkpoint(tmp_path)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("evil",)


@pytest.mark.parametrize("damage", ["empty", "truncated", "text", "pickle"])
def test_a_damaged_checkpoint_is_refused_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint(make(), tmp_path)
    path = checkpoint_path(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "truncated": whole[: len(whole) // 2], "text": b"hello", "pickle": pickle.dumps(_Evil())}[damage]
    )
    with pytest.raises(CheckpointError, match=r"last.pt cannot be read as a checkpoint") as caught:
        load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "evil").exists()


def test_another_version_or_other_entries_are_refused(tmp_path: Path) -> None:
    path = checkpoint_path(tmp_path)
    path.parent.mkdir()
    torch.save({"format": 99}, path)
    with pytest.raises(CheckpointError, match="must be a checkpoint of version 2, got 99"):
        load_checkpoint(tmp_path)
    torch.save({"format": 2, "step": 3}, path)
    with pytest.raises(CheckpointError, match=r"must have the entries .* got \['format', 'step'\]"):
        load_checkpoint(tmp_path)


def test_another_recipe_is_refused_with_key_and_both_values() -> None:
    with pytest.raises(CheckpointError, match=r"train.epochs is 4, the checkpoint has 3$"):
        check_resumable(make(), digits_recipe(train={"epochs": 4}), "ab" * 32, 1)
    with pytest.raises(CheckpointError, match=r"distillation is \{\"weight\": 0.5, .*, the checkpoint has null$"):
        check_resumable(make(), digits_recipe(distillation={"weight": 0.5}), "ab" * 32, 1)
    with pytest.raises(CheckpointError, match=r"schedule.ramp_epochs is 2.0, .* has 1.0 \(and 1 more\)$"):
        check_resumable(make(), digits_recipe(schedule={"ramp_epochs": 2.0}, train={"epochs": 4}), "ab" * 32, 1)
    old = make()
    del old.recipe["train"]["freeze_batch_norm"]
    with pytest.raises(CheckpointError, match=r"freeze_batch_norm is false, the checkpoint has no such key$"):
        check_resumable(old, digits_recipe(), "ab" * 32, 1)
    with pytest.raises(CheckpointError, match="seed is 1, the checkpoint has 0"):
        check_resumable(make(), digits_recipe().model_copy(update={"seed": 1}), "ab" * 32, 1)


def test_other_weights_or_processes_are_refused() -> None:
    check_resumable(make(), digits_recipe(), "ab" * 32, 1)
    with pytest.raises(CheckpointError, match="cannot resume with other weights"):
        check_resumable(make(), digits_recipe(), "cd" * 32, 1)
    with pytest.raises(CheckpointError, match="cannot resume with 2 processes: the checkpoint was made by 1"):
        check_resumable(make(), digits_recipe(), "ab" * 32, 2)


def test_random_numbers_continue_where_they_were(tmp_path: Path) -> None:
    def draw() -> tuple[Any, ...]:
        return (
            torch.rand(3).tolist(),
            np.random.rand(3).tolist(),  # noqa: NPY002 (the global generator is what is kept)
            np.random.normal(),  # noqa: NPY002
            random.random(),
            random.gauss(),
        )

    torch.manual_seed(1)
    np.random.seed(2)  # noqa: NPY002
    random.seed(3)
    draw()  # leaves half a pair of Gaussian numbers in two of the generators
    save_checkpoint(make(random_states=[random_state()]), tmp_path)
    expected = draw()
    draw()
    set_random_state(load_checkpoint(tmp_path).random_states[0])
    assert draw() == expected


def test_every_field_is_stored(tmp_path: Path) -> None:
    save_checkpoint(make(), tmp_path)
    content = torch.load(checkpoint_path(tmp_path), weights_only=True)
    assert content.keys() == {item.name for item in fields(Checkpoint)}


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_a_checkpoint_is_written_whole_before_the_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = torch.save
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)

    def write_and_press(content: Any, file: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        write(content, file)

    monkeypatch.setattr(torch, "save", write_and_press)
    try:
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(make(), tmp_path)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert load_checkpoint(tmp_path).step == make().step
    assert not list(tmp_path.rglob("*.partial"))
