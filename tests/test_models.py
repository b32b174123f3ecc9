from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, fx, nn

from sterna.config import ModelConfig
from sterna.errors import ConfigError, DataError, MissingDependencyError
from sterna.models import BasicBlock, CifarResNet, build_model, list_models, load_weights

DEPTHS = {20: 0.27e6, 32: 0.46e6, 44: 0.66e6, 56: 0.85e6}
OWN = (*(f"cifar_resnet{depth}" for depth in DEPTHS), "digits_cnn")


def tiny() -> CifarResNet:
    return CifarResNet(blocks=1, num_classes=4)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(("depth", "parameters"), DEPTHS.items())
def test_a_cifar_resnet_has_the_published_depth_and_size(depth: int, parameters: float) -> None:
    model = build_model(f"cifar_resnet{depth}")
    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert len(layers) == depth
    # The paper gives two digits.
    assert abs(sum(parameter.numel() for parameter in model.parameters()) - parameters) < 0.005e6


def test_a_cifar_resnet_has_the_common_names() -> None:
    names = {name.rsplit(".", 1)[0] for name in build_model("cifar_resnet20").state_dict()}
    layers = ("conv1", "bn1", "conv2", "bn2")
    blocks = {f"layer{stage}.{block}.{layer}" for stage in (1, 2, 3) for block in range(3) for layer in layers}
    assert names == {"conv1", "bn1", "linear"} | blocks


def test_the_shortcut_takes_every_second_pixel_and_pads_channels_on_both_sides() -> None:
    block = BasicBlock(2, 4, stride=2).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(1, 2, 6, 6)
    expected = torch.zeros(1, 4, 3, 3)
    expected[:, 1:3] = x[:, :, ::2, ::2]
    assert torch.equal(block(x), expected)


def test_a_block_of_equal_shape_passes_its_input_on() -> None:
    block = BasicBlock(3, 3, stride=1).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(1, 3, 5, 5)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("name", OWN)
def test_our_models_give_logits_and_can_be_traced(name: str) -> None:
    model = build_model(name, {"num_classes": 7}).eval()
    x = torch.rand(2, *((1, 8, 8) if name == "digits_cnn" else (3, 32, 32)))
    logits = model(x)
    assert logits.shape == (2, 7)
    assert torch.equal(fx.symbolic_trace(model)(x), logits)


def test_our_models_compile_to_one_graph() -> None:
    model = tiny().eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(compiled(x), model(x))


def test_a_configuration_holds_the_arguments() -> None:
    model = build_model(ModelConfig(name="digits_cnn", arguments={"num_classes": 3}))
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    with pytest.raises(TypeError, match="arguments must be left out"):
        build_model(ModelConfig(name="digits_cnn"), {"num_classes": 3})


def test_torchvision_models_are_built_by_name() -> None:
    model = build_model("torchvision:resnet18", {"num_classes": 5})
    assert type(model).__name__ == "ResNet"
    assert model.fc.out_features == 5


def test_a_detection_model_does_not_download_its_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_keywords: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    model = build_model("torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", {"num_classes": 2})
    assert hasattr(model, "roi_heads")


def test_timm_models_are_built_by_name() -> None:
    pytest.importorskip("timm", reason="timm is optional")
    model = build_model("timm:resnet18", {"num_classes": 5})
    assert model.get_classifier().out_features == 5


def test_a_missing_timm_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingDependencyError, match=r"'timm:resnet18' needs timm: install it with  pip install timm"):
        build_model("timm:resnet18")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("cifar_resnet21", "cifar_resnet20"),
        ("resnet18", "torchvision:resnet18"),
        ("torchvision:resnet19", "torchvision:resnet18"),
        ("torchvison:mobilenet_v2", "torchvision:mobilenet_v2"),
        ("digit_cnn", "digits_cnn"),
    ],
)
def test_an_unknown_name_is_refused_with_close_matches(name: str, match: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_model(name)
    text = str(caught.value)
    assert text.startswith(f"unknown model '{name}', allowed are cifar_resnet20, ")
    assert "torchvision:NAME and timm:NAME" in text
    assert f"'{match}'" in text.split("did you mean")[1]
    assert "\n" not in text


def test_a_name_like_no_other_gets_no_hint() -> None:
    with pytest.raises(ConfigError, match=r"timm:NAME$"):
        build_model("qqqqqq")


def test_an_unknown_timm_name_is_refused_with_close_matches() -> None:
    pytest.importorskip("timm", reason="timm is optional")
    with pytest.raises(ConfigError, match=r"did you mean .*'timm:resnet18'"):
        build_model("timm:resnet_18")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cifar_resnet20", {"classes": 10}),
        ("cifar_resnet20", {"num_classes": "ten"}),
        ("digits_cnn", {"num_classes": -1}),
        ("torchvision:resnet18", {"no_such_argument": 1}),
    ],
)
def test_arguments_that_a_model_does_not_take_are_refused(name: str, arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=rf"^model '{name}' cannot be built with {{.*}}: .+") as caught:
        build_model(name, arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["weights", "weights_backbone", "pretrained"])
def test_weights_are_never_an_argument(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.arguments\.{key} is not allowed"):
        build_model("torchvision:resnet18", {key: "DEFAULT"})


def test_the_list_holds_every_name_that_can_be_built() -> None:
    names = list_models()
    assert names[: len(OWN)] == OWN
    assert "torchvision:resnet18" in names
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("form", ["safetensors", "plain", "state_dict", "module prefix", "no counters"])
def test_weights_come_back_from_each_form_of_file(tmp_path: Path, form: str) -> None:
    source = tiny()
    tensors = tensors_of(source)
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "no counters":
        tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    if form == "safetensors":
        save_file(tensors, path)
    elif form == "state_dict":
        torch.save({"state_dict": tensors, "epoch": 3}, path)
    elif form == "module prefix":
        torch.save({f"module.{name}": tensor for name, tensor in tensors.items()}, path)
    else:
        torch.save(tensors, path)
    target = tiny()
    digest = load_weights(target, path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    for name, tensor in tensors_of(source).items():
        assert torch.equal(target.state_dict()[name], tensor)


def test_the_type_of_the_model_stays(tmp_path: Path) -> None:
    save_file({name: tensor.half() for name, tensor in tensors_of(tiny()).items()}, tmp_path / "w.safetensors")
    target = tiny()
    load_weights(target, tmp_path / "w.safetensors")
    assert target.conv1.weight.dtype == torch.float32


def test_weights_are_found_below_the_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(tensors_of(tiny()), tmp_path / "w.safetensors")
    monkeypatch.setenv("STERNA_DATA", str(tmp_path))
    load_weights(tiny(), "w.safetensors")


def rename(tensors: dict[str, Tensor], old: str, new: str) -> None:
    tensors[new] = tensors.pop(old)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("linear.bias"), r"does not fit CifarResNet: lacks linear\.bias$"),
        (lambda t: t.update(extra=torch.zeros(1)), r"has unexpected extra$"),
        (
            lambda t: t.update({"linear.bias": torch.zeros(9)}),
            r"other shapes for linear\.bias \(got \(9,\), needed \(4,\)\)$",
        ),
        (lambda t: t["conv1.weight"].fill_(float("nan")), r"not finite in conv1\.weight$"),
        (lambda t: rename(t, "linear.bias", "fc.bias"), r"lacks linear\.bias; has unexpected fc\.bias$"),
        (lambda t: [t.pop(f"bn1.{n}") for n in ("weight", "bias", "running_mean", "running_var")], r" and 1 more$"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_change_nothing(tmp_path: Path, change, message: str) -> None:
    tensors = tensors_of(tiny())
    change(tensors)
    save_file(tensors, tmp_path / "w.safetensors")
    target = tiny()
    before = tensors_of(target)
    with pytest.raises(DataError, match=message) as caught:
        load_weights(target, tmp_path / "w.safetensors")
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x80\x04\x95" + bytes(60)])
def test_an_unreadable_file_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}' cannot be read as weights: .+") as caught:
        load_weights(tiny(), tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_weights(tiny(), tmp_path / "w.safetensors")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as weights"):
        load_weights(tiny(), tmp_path)


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return exec, ("raise SystemExit('code of the file was run')",)


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    torch.save({"state_dict": Malicious()}, tmp_path / "w.pt")
    with pytest.raises(DataError, match="cannot be read as weights"):
        load_weights(tiny(), tmp_path / "w.pt")


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"state_dict": {"a": 1}}, {"epoch": 3}, {3: torch.zeros(1)}])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(DataError, match="must hold tensors by name"):
        load_weights(tiny(), tmp_path / "w.pt")


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_real_cifar_weights_fit(data_root: Path, depth: int) -> None:
    load_weights(build_model(f"cifar_resnet{depth}"), data_root / "weights" / f"resnet{depth}_cifar10.safetensors")


def test_a_file_can_hold_a_part_of_the_network(tmp_path: Path) -> None:
    whole = nn.Sequential()
    whole.add_module("body", build_model("digits_cnn"))
    whole.add_module("head", nn.Linear(3, 2))
    part = build_model("digits_cnn")
    save_file(part.state_dict(), tmp_path / "part.safetensors")
    head = whole.head.weight.clone()
    load_weights(whole, tmp_path / "part.safetensors", prefix="body.", fresh=["head.*"])
    assert all(torch.equal(value, part.state_dict()[name]) for name, value in whole.body.state_dict().items())
    assert torch.equal(whole.head.weight, head)


def test_a_classifier_for_other_classes_stays_fresh(tmp_path: Path) -> None:
    save_file(build_model("digits_cnn").state_dict(), tmp_path / "ten.safetensors")
    three = build_model("digits_cnn", {"num_classes": 3})
    with pytest.raises(DataError, match=r"other shapes for .*linear\.weight"):
        load_weights(three, tmp_path / "ten.safetensors")
    before = three.linear.weight.clone()
    load_weights(three, tmp_path / "ten.safetensors", fresh=["linear.*"])
    assert torch.equal(three.linear.weight, before)


def test_a_pattern_that_leaves_out_nothing_is_refused(tmp_path: Path) -> None:
    save_file(build_model("digits_cnn").state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match=r"model.fresh: pattern 'fc.\*' matches no tensor of the model or of"):
        load_weights(build_model("digits_cnn"), tmp_path / "a.safetensors", fresh=["fc.*"])
