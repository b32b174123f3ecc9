"""What the layers of a network are given, one layer after another, while the layers before them are being changed."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn


class Activations(Protocol):
    """The inputs of layers."""

    def inputs_of(self, name: str) -> Iterator[Tensor]:
        """What a layer is given, batch by batch, by the network as it is now.

        Layers are asked for in the order in which the network calls them, each at most once; a layer must not change
        any more once one after it has been asked for.
        """

    def added_to(self, name: str) -> list[Tensor] | None:
        """What the network adds to the output of a module, batch by batch: the other branch of a residual block.

        Nothing if the output is not added to anything, or to what is not known by now, or if that cannot be found out.
        """


def watch(
    network: nn.Module, names: Collection[str], batches: Sequence[Tensor], precision: torch.dtype = torch.float32
) -> Activations:
    """Follow a network from layer to layer.

    Where its forward pass can be traced symbolically, each layer runs once for all batches, and what lies between two
    layers is kept for all of them: memory for the activations of every image at one place in the network. Otherwise
    the network is run anew for each layer, up to there.

    Args:
        network: in evaluation mode.
        names: of the layers that will be asked for; each is called once in a forward pass.
        batches: of the network's only argument.
        precision: of the forward passes, by autocast.
    """
    try:
        graph = _LeafTracer(names).trace(network)
    except Exception:  # tracing runs the network's own forward: it may fail in any way
        return _Rerun(network, batches, precision)
    return _Replay(network, graph, batches, precision)


# As functions and as methods of a tensor.
_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")


class _LeafTracer(fx.Tracer):
    """Stops at certain layers, however they are subclassed or parametrized, besides those of torch."""

    def __init__(self, leaves: Collection[str]) -> None:
        super().__init__()
        self._leaves = frozenset(leaves)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self._leaves or super().is_leaf_module(m, module_qualified_name)


class _Replay:
    """Goes through the steps of a traced forward pass, each for all batches, no further than it is asked to."""

    def __init__(self, network: nn.Module, graph: fx.Graph, batches: Sequence[Tensor], precision: torch.dtype) -> None:
        module = fx.GraphModule(network, graph)
        self._runs: list[Any] = [fx.Interpreter(module) for _ in batches]
        for run, batch in zip(self._runs, batches, strict=True):
            run.args_iter = iter([batch])
        self._steps = list(graph.nodes)
        self._done = 0
        self._device, self._precision = batches[0].device.type, precision

    def inputs_of(self, name: str) -> Iterator[Tensor]:
        place = next(i for i, step in enumerate(self._steps) if step.op == "call_module" and step.target == name)
        for step in self._steps[self._done : place]:
            self._do(step)
        self._done = max(self._done, place)
        source = self._steps[place].args[0]
        for run in self._runs:
            yield run.env[source]

    def added_to(self, name: str) -> list[Tensor] | None:
        places = [step for step in self._steps if step.op == "call_module" and step.target == name]
        users = [user for place in places for user in place.users]
        if len(users) != 1 or users[0].target not in _ADDITIONS or len(users[0].args) != 2 or users[0].kwargs:
            return None
        (other,) = [term for term in users[0].args if term is not places[0]] or [None]
        if not isinstance(other, fx.Node) or any(other not in run.env for run in self._runs):
            return None
        return [run.env[other] for run in self._runs]

    def _do(self, step: fx.Node) -> None:
        for run in self._runs:
            with at_precision(self._device, self._precision):
                run.env[step] = run.run_node(step)
            for dead in run.user_to_last_uses.get(step, []):
                del run.env[dead]


class _ReachedError(Exception):
    """Ends a forward pass at the layer that was to be watched; never leaves this module."""


class _Rerun:
    """Runs the network anew for each layer."""

    def __init__(self, network: nn.Module, batches: Sequence[Tensor], precision: torch.dtype) -> None:
        self._network, self._batches, self._precision = network, batches, precision

    def inputs_of(self, name: str) -> Iterator[Tensor]:
        found: list[Tensor] = []

        def stop(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            found.append(arguments[0])
            raise _ReachedError

        for batch in self._batches:
            handle = self._network.get_submodule(name).register_forward_pre_hook(stop)
            try:
                with at_precision(batch.device.type, self._precision):
                    self._network(batch)
            except _ReachedError:
                pass
            finally:
                handle.remove()
            yield found.pop()

    def added_to(self, name: str) -> list[Tensor] | None:
        """Nothing: only a trace tells what is added to what."""
        del name
        return None


@contextmanager
def at_precision(device: str, precision: torch.dtype) -> Iterator[None]:
    """Autocast to a precision; in float32 nothing changes."""
    with torch.autocast(device, precision, enabled=precision != torch.float32):
        yield
