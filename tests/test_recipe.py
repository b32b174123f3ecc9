"""Recipes: what is read, what is refused and in which words, and that writing and reading are inverse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sterna.config import (
    DataConfig,
    DistillationConfig,
    ModelConfig,
    OptimizerConfig,
    Recipe,
    StorageConfig,
    TernaryConfig,
)
from sterna.errors import ConfigError
from sterna.train.recipe import MAX_RECIPE_BYTES, dump_recipe, load_recipe

MINIMAL = "name: tiny\nmodel:\n  name: digits_cnn\ndata:\n  name: digits\n"
RECIPES = sorted((REPOSITORY / "recipes").glob("*.yaml"))


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "r.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(folder: Path, text: str | bytes, *overrides: str) -> str:
    """The one line with which a recipe is refused, without the folder."""
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(path), "r.yaml")


class TestReading:
    def test_defaults_fill_what_is_left_out(self, tmp_path: Path) -> None:
        recipe = load_recipe(write(tmp_path, MINIMAL))
        assert recipe == Recipe(name="tiny", model=ModelConfig(name="digits_cnn"), data=DataConfig(name="digits"))

    def test_numbers_with_an_exponent_are_numbers(self, tmp_path: Path) -> None:
        text = MINIMAL + "optimizer:\n  learning_rate: 1e-4\n  weight_decay: 5E-5\n"
        optimizer = load_recipe(write(tmp_path, text)).optimizer
        assert (optimizer.learning_rate, optimizer.weight_decay) == (1e-4, 5e-5)

    def test_lists_become_tuples_and_whole_numbers_floats(self, tmp_path: Path) -> None:
        text = MINIMAL + "optimizer:\n  betas: [0, 0.5]\nternary: {exclude: [linear]}\n"
        recipe = load_recipe(write(tmp_path, text))
        assert recipe.optimizer.betas == (0.0, 0.5)
        assert isinstance(recipe.optimizer.betas[0], float)
        assert recipe.ternary.exclude == ("linear",)

    def test_words_that_other_yaml_readers_convert_stay_text(self, tmp_path: Path) -> None:
        text = MINIMAL.replace("tiny", "2024-01-01") + "ternary: {exclude: [no, on, y, 1:30, 0x10]}\n"
        recipe = load_recipe(write(tmp_path, text))
        assert recipe.name == "2024-01-01"
        assert recipe.ternary.exclude == ("no", "on", "y", "1:30", "0x10")

    def test_a_byte_order_mark_is_no_part_of_the_recipe(self, tmp_path: Path) -> None:
        assert load_recipe(write(tmp_path, b"\xef\xbb\xbf" + MINIMAL.encode())).name == "tiny"

    @pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
    def test_every_recipe_of_the_project_loads_and_has_the_name_of_its_file(self, path: Path) -> None:
        assert load_recipe(path).name == path.stem

    def test_the_project_has_its_recipes(self) -> None:
        names = {path.stem for path in RECIPES}
        assert names >= {"digits_demo", *(f"resnet20_cifar10_z{zeros}" for zeros in (50, 70, 85))}


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("", "r.yaml: the file is empty, allowed: a mapping with the keys name, seed, task, model"),
            ("# nothing\n", "r.yaml: the file is empty"),
            ("- a\n", "r.yaml: got a list, allowed: a mapping"),
            ("word\n", 'r.yaml: got "word", allowed: a mapping'),
            (MINIMAL + "train:\n\tepochs: 3\n", "r.yaml:7: a tab where spaces are needed"),
            (MINIMAL + "name: again\n", "r.yaml:6: name: this key stands twice"),
            (MINIMAL + "train:\n  epochs: 5\n  epochs: 6\n", "r.yaml:8: train.epochs: this key stands twice"),
            (MINIMAL + "train: [1\n", "r.yaml:7: expected ',' or ']'"),
            (MINIMAL + "---\nname: b\n", "r.yaml:6: a second YAML document"),
            (MINIMAL + "3: x\n", "r.yaml:6: key 3 in the recipe must be text"),
            (MINIMAL + "? [a]\n: x\n", "r.yaml:6: key a list in the recipe must be text"),
            (MINIMAL + "train: &a {}\n", "r.yaml:6: anchors (&) and aliases (*) are not allowed"),
            (MINIMAL + "<<: {seed: 1}\n", 'r.yaml:6: "<<": unknown key'),
            (
                MINIMAL + "x: !!python/object:os.system {}\n",
                "r.yaml:6: x: tag !!python/object:os.system is not allowed",
            ),
            (MINIMAL + "seed: !!binary aGk=\n", "r.yaml:6: seed: tag !!binary is not allowed"),
            (MINIMAL + "seed: !!int one\n", 'r.yaml:6: seed: got "one", which is not a usable int'),
            (MINIMAL + "x: " + "[" * 5000, "r.yaml: nested too deeply"),
            (MINIMAL + "x: \x00\n", "r.yaml: unacceptable character"),
            (b"\x80\x02pickle", "r.yaml: not UTF-8 text (byte 0)"),
            (b"#" * (MAX_RECIPE_BYTES + 1), "r.yaml: larger than 1,048,576 bytes"),
        ],
    )
    def test_what_is_not_a_recipe_file(self, tmp_path: Path, text: str | bytes, expected: str) -> None:
        assert refusal(tmp_path, text).startswith(expected)

    @pytest.mark.parametrize(
        ("section", "expected"),
        [
            (
                "train:\n  epocs: 3",
                "r.yaml:7: train.epocs: unknown key, did you mean epochs? allowed: epochs, batch_size",
            ),
            ("epochs: 3", "r.yaml:6: epochs: unknown key, did you mean train.epochs? allowed: name, seed, task, model"),
            ("zzz: 3", "r.yaml:6: zzz: unknown key, allowed: name, seed, task, model"),
            ('train:\n  epochs: "3"', 'r.yaml:7: train.epochs: got "3", allowed: an integer >= 1'),
            ("train:\n  epochs: 1.5", "r.yaml:7: train.epochs: got 1.5, allowed: an integer >= 1"),
            ("train:\n  epochs: 0", "r.yaml:7: train.epochs: got 0, allowed: an integer >= 1"),
            ("train:\n  epochs: null", "r.yaml:7: train.epochs: got null, allowed: an integer >= 1"),
            ("train:\n  epochs: true", "r.yaml:7: train.epochs: got true, allowed: an integer >= 1"),
            ("train:\n  compile: off", 'r.yaml:7: train.compile: got "off", allowed: true or false'),
            ("train:\n  compile: 1", "r.yaml:7: train.compile: got 1, allowed: true or false"),
            ("ternary:\n  sparsity: 1", "r.yaml:7: ternary.sparsity: got 1, allowed: a number >= 0 and < 1"),
            ("ternary:\n  sparsity: .nan", 'r.yaml:7: ternary.sparsity: got ".nan", allowed: a number >= 0 and < 1'),
            ("ternary:\n  pull: 1e999", 'r.yaml:7: ternary.pull: got "1e999", which is not a usable float'),
            (
                "ternary:\n  gradient: fancy",
                'got "fancy", allowed: one of straight-through, scaled, sphere-masked, sphere',
            ),
            ("ternary:\n  include: '*'", 'r.yaml:7: ternary.include: got "*", allowed: a list, each text'),
            ("ternary:\n  include: [conv, 3]", "r.yaml:7: ternary.include[1]: got 3, allowed: text"),
            (
                "optimizer:\n  betas: [0.9, 1.0]",
                "r.yaml:7: optimizer.betas[1]: got 1.0, allowed: a number >= 0 and < 1",
            ),
            ("optimizer:\n  betas: [0.9]", "r.yaml:7: optimizer.betas[1]: missing, allowed: a number >= 0 and < 1"),
            (
                "optimizer:\n  betas: [0.9, 0.9, 0.9]",
                "r.yaml:7: optimizer.betas: got [0.9, 0.9, 0.9], allowed: a list of 2",
            ),
            ("optimizer: sgd", 'r.yaml:6: optimizer: got "sgd", allowed: a mapping with the keys name, learning_rate'),
            (
                "distillation:\n  teacher: m",
                'r.yaml:7: distillation.teacher: got "m", allowed: a mapping with the keys name',
            ),
            ("distillation:\n  teacher: {}", "r.yaml:7: distillation.teacher.name: missing, allowed: text"),
            (
                "train:\n  epochs: 2",
                "r.yaml: schedule needs 4 epochs (dense + ramp or prune + freeze), train.epochs is 2",
            ),
        ],
    )
    def test_what_a_key_may_not_be(self, tmp_path: Path, section: str, expected: str) -> None:
        message = refusal(tmp_path, MINIMAL + section + "\n")
        assert message.startswith("r.yaml")
        assert expected in message

    def test_a_misspelt_key_comes_before_the_missing_one_it_causes(self, tmp_path: Path) -> None:
        message = refusal(tmp_path, MINIMAL.replace("model:", "modle:"))
        assert message.startswith("r.yaml:2: modle: unknown key, did you mean model?")
        assert message.endswith("(and 1 more)")

    def test_a_missing_section_says_what_it_holds(self, tmp_path: Path) -> None:
        message = refusal(tmp_path, "name: a\ndata: {name: digits}\n")
        assert message == (
            "r.yaml: model: missing, allowed: a mapping with the keys "
            "name, arguments, weights, weights_prefix, fresh, license"
        )

    def test_long_values_are_shortened(self, tmp_path: Path) -> None:
        message = refusal(tmp_path, MINIMAL + f"seed: {'x' * 1000}\n")
        assert len(message) < 150

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"none\.yaml: cannot read the recipe: No such file"):
            load_recipe(tmp_path / "none.yaml")

    def test_a_folder_is_no_recipe(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot read the recipe"):
            load_recipe(tmp_path)


class TestOverrides:
    @pytest.mark.parametrize(
        ("override", "section", "key", "value"),
        [
            ("train.epochs=7", "train", "epochs", 7),
            ("train.epochs= 7 ", "train", "epochs", 7),
            ("optimizer.learning_rate=1e-3", "optimizer", "learning_rate", 1e-3),
            ("optimizer.betas=[0.8, 0.9]", "optimizer", "betas", (0.8, 0.9)),
            ("train.compile=true", "train", "compile", True),
            ("data.path=a=b", "data", "path", "a=b"),
            ("model.arguments={num_classes: 7}", "model", "arguments", {"num_classes": 7}),
            ("model.arguments.num_classes=7", "model", "arguments", {"num_classes": 7}),
            ("distillation.weight=0.5", "distillation", "weight", 0.5),
        ],
    )
    def test_a_value_is_set(self, tmp_path: Path, override: str, section: str, key: str, value: Any) -> None:
        recipe = load_recipe(write(tmp_path, MINIMAL), [override])
        assert getattr(getattr(recipe, section), key) == value

    def test_the_last_override_wins(self, tmp_path: Path) -> None:
        assert load_recipe(write(tmp_path, MINIMAL), ["seed=1", "seed=2"]).seed == 2

    def test_a_section_can_be_switched_off(self, tmp_path: Path) -> None:
        path = write(tmp_path, MINIMAL + "distillation:\n  weight: 0.5\n")
        assert load_recipe(path, ["distillation=null"]).distillation is None

    def test_an_override_repairs_the_file(self, tmp_path: Path) -> None:
        assert load_recipe(write(tmp_path, MINIMAL + "seed: many\n"), ["seed=3"]).seed == 3

    @pytest.mark.parametrize(
        ("override", "expected"),
        [
            ("train.epocs=3", "--set: train.epocs: unknown key, did you mean epochs?"),
            ("trian.epochs=3", "--set: trian: unknown key, did you mean train?"),
            ("epochs=3", "--set: epochs: unknown key, did you mean train.epochs?"),
            ("train.epochs.first=3", '--set: train.epochs: got {"first": 3}, allowed: an integer >= 1'),
            ("train.epochs=many", '--set: train.epochs: got "many", allowed: an integer >= 1'),
            ("train.epochs='3'", '--set: train.epochs: got "3", allowed: an integer >= 1'),
            ("train.epochs=[3", '--set: train.epochs: value "[3": expected'),
            ("train={epochs: 5, epochs: 6}", "--set: train.epochs: this key stands twice"),
            ("name.first=x", '--set: name is "tiny" and holds no keys'),
            ("train.epochs", '--set: got "train.epochs", allowed: key=value'),
            ("train.epochs=", '--set: got "train.epochs=", allowed: key=value'),
            ("=3", '--set: got "=3", allowed: key=value'),
            ("train..epochs=3", '--set: got "train..epochs=3", allowed: key=value'),
        ],
    )
    def test_a_wrong_override_is_refused_like_a_wrong_key(self, tmp_path: Path, override: str, expected: str) -> None:
        assert refusal(tmp_path, MINIMAL, override).startswith(expected)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda children: st.lists(children, max_size=3)
    | st.dictionaries(st.text(st.characters(codec="utf-8")), children, max_size=3),
    max_leaves=8,
)  # fmt: skip
TEXT = st.text(st.characters(codec="utf-8")) | st.sampled_from(
    [
        "null",
        "~",
        "",
        "true",
        "no",
        "1",
        "1e-4",
        "0x10",
        "2024-01-01",
        "1:30",
        "<<",
        "=",
        "&a",
        "*",
        "- a",
        "#",
        ".inf",
        "|",
    ]
)
POSITIVE = st.floats(min_value=5e-324, allow_nan=False, allow_infinity=False)
FRACTION = st.floats(0, 1, exclude_max=True)
RECIPE = st.builds(
    Recipe,
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]*", fullmatch=True),
    seed=st.integers(0, 2**64),
    model=st.builds(
        ModelConfig,
        name=TEXT,
        arguments=st.dictionaries(TEXT, JSON_VALUES, max_size=4),
        weights=st.none() | TEXT,
    ),
    data=st.builds(
        DataConfig,
        name=st.sampled_from(["cifar10", "digits", "image-folder"]),
        path=st.none() | TEXT,
        std=st.none() | st.lists(POSITIVE, max_size=3).map(tuple),
    ),
    ternary=st.builds(TernaryConfig, sparsity=FRACTION, include=st.lists(TEXT, max_size=3).map(tuple)),
    optimizer=st.builds(OptimizerConfig, learning_rate=POSITIVE, betas=st.tuples(FRACTION, FRACTION)),
    distillation=st.none() | st.builds(DistillationConfig, temperature=POSITIVE),
    storage=st.builds(StorageConfig, float_dtype=st.sampled_from(["float16", "float32"])),
)


class TestWriting:
    @given(recipe=RECIPE)
    @settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    def test_what_is_written_reads_back_equal(self, tmp_path: Path, recipe: Recipe) -> None:
        assert load_recipe(write(tmp_path, dump_recipe(recipe))) == recipe

    @pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
    def test_a_resolved_recipe_reads_back_equal_and_is_written_alike(self, tmp_path: Path, path: Path) -> None:
        recipe = load_recipe(path)
        text = dump_recipe(recipe)
        again = load_recipe(write(tmp_path, text))
        assert again == recipe
        assert dump_recipe(again) == text

    def test_every_default_is_spelled_out(self, tmp_path: Path) -> None:
        text = dump_recipe(load_recipe(write(tmp_path, MINIMAL)))
        assert "learning_rate: 0.05" in text
        assert "distillation: null" in text
        assert "betas: [0.9, 0.999]" in text
