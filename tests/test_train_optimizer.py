"""Weight decay belongs on latent weights and nowhere else."""

from __future__ import annotations

import pytest
import torch

from sterna.config import OptimizerConfig, TernaryConfig
from sterna.models import build_model
from sterna.preparation import latent_parameters, prepare
from sterna.train.optimizer import make_optimizer, set_learning_rate


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_only_latent_weights_decay(name: str) -> None:
    torch.manual_seed(0)
    model = prepare(build_model("digits_cnn"), TernaryConfig())
    optimizer = make_optimizer(
        model, OptimizerConfig.model_validate({"name": name, "learning_rate": 0.5, "weight_decay": 0.1})
    )
    latent = latent_parameters(model)
    others = [p for p in model.parameters() if all(p is not q for q in latent)]
    before = {id(p): p.detach().clone() for p in model.parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter in latent:
        torch.testing.assert_close(parameter.detach(), before[id(parameter)] * (1 - 0.5 * 0.1))
    for parameter in others:
        assert torch.equal(parameter.detach(), before[id(parameter)])


def test_every_parameter_is_optimised_once() -> None:
    model = prepare(build_model("digits_cnn"), TernaryConfig(scale="learned"))
    optimizer = make_optimizer(model, OptimizerConfig())
    optimised = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(optimised) == sorted(id(p) for p in model.parameters())


def test_parameters_without_gradient_are_left_out() -> None:
    model = prepare(build_model("digits_cnn"), TernaryConfig())
    model.get_parameter("linear.bias").requires_grad_(False)
    optimizer = make_optimizer(model, OptimizerConfig())
    optimised = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert id(model.get_parameter("linear.bias")) not in optimised


def test_options_reach_the_optimiser() -> None:
    model = prepare(build_model("digits_cnn"), TernaryConfig())
    sgd = make_optimizer(model, OptimizerConfig(momentum=0.7, nesterov=True))
    assert all(group["momentum"] == 0.7 and group["nesterov"] for group in sgd.param_groups)
    adamw = make_optimizer(model, OptimizerConfig(name="adamw", betas=(0.8, 0.95)))
    assert all(group["betas"] == (0.8, 0.95) for group in adamw.param_groups)


def test_the_learning_rate_is_that_of_all_groups() -> None:
    optimizer = make_optimizer(prepare(build_model("digits_cnn"), TernaryConfig()), OptimizerConfig())
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]
