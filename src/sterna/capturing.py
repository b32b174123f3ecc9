"""From a PyTorch module to a :class:`~sterna.graph.Graph`, by ``torch.export``.

A graph names tensors by their ``state_dict`` names without parametrizations, as the
:class:`~sterna.ternary_model.TernaryModel` of the same module does, and takes batch norms to be folded, as it does.
"""

from __future__ import annotations

import copy
import io
import logging
import operator
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.nn.utils import parametrize

from sterna.captured_operators import Refused, Tape, Unsupported, handle
from sterna.errors import SternaError
from sterna.folding import is_batch_norm
from sterna.graph import Graph, GraphInput, Node

# Places that are named for an operation that no graph holds.
_LISTED = 3
_BATCH = 2  # sizes of 0 and 1 mean other things than all others
_ANY_SIZE = 64


@torch.no_grad()
def capture(model: nn.Module, input_shape: Sequence[int] = (3, 224, 224), *, name: str = "") -> Graph:
    """Write down what a network computes in evaluation.

    Args:
        model: with one input; plain, prepared or trained. It is not changed.
        input_shape: of one input, ``(channels, height, width)`` of an image; other heights and widths can be computed
            too if the network takes them.
        name: of the graph; empty for a whole network.

    Returns:
        a graph with the input ``input``, and the output ``output`` or, of a network with several, ``output0``,
        ``output1``, ... It has no ranges.

    Raises:
        SternaError: PyTorch cannot export the network, or it has operations that no graph holds; the text names all of
            them and where they are.
    """
    return _capture(_plain_copy(model), tuple(input_shape), name, None)


@torch.no_grad()
def capture_detector(model: nn.Module) -> tuple[Graph, ...]:
    """Write down the networks in a detector: what lies between them (anchors, suppression, RoIAlign) is not in graphs.

    Args:
        model: ``FasterRCNN``, ``MaskRCNN``, ``KeypointRCNN`` or ``RetinaNet`` of torchvision, prepared or not.

    Returns:
        ``backbone``: from images ``(n, 3, height, width)`` to the levels of the pyramid, ``backbone.0``, ...,
        and to what the heads make of each of them, ``rpn.head.cls_logits.0``, ``rpn.head.bbox_pred.0`` or
        ``head.classification_head.cls_logits.0``, ``head.regression_head.bbox_reg.0``, ..., as images, before they are
        rearranged by anchors.
        ``roi_heads.box`` and, if there are such heads, ``roi_heads.mask`` and ``roi_heads.keypoint``: from pooled
        regions ``(n, channels, size, size)`` to what the predictor of this head returns.

    Raises:
        SternaError: another kind of model, or as :func:`capture`.
    """
    from torchvision.models.detection import FasterRCNN, RetinaNet

    if not isinstance(model, FasterRCNN | RetinaNet):
        allowed = "FasterRCNN, MaskRCNN, KeypointRCNN and RetinaNet"
        raise SternaError(f"{type(model).__name__} cannot be captured, allowed are torchvision's {allowed}")
    plain = _plain_copy(model)
    detector: Any = plain
    if hasattr(detector, "rpn"):
        paths = ("rpn.head.cls_logits", "rpn.head.bbox_pred")
    else:
        paths = ("head.classification_head.cls_logits", "head.regression_head.bbox_reg")
    # The names of the levels are in no attribute: a small image tells them.
    levels = tuple(detector.backbone(torch.zeros(1, 3, _ANY_SIZE, _ANY_SIZE)))
    names = tuple(f"{path}.{level}" for path in ("backbone", *paths) for level in levels)
    graphs = [_capture(_Backbone(plain), (3, 0, 0), "backbone", names)]
    for part, outputs in _REGION_HEADS.items():
        if getattr(getattr(detector, "roi_heads", None), f"{part}_head", None) is None:
            continue
        side = getattr(detector.roi_heads, f"{part}_roi_pool").output_size
        shape = (int(detector.backbone.out_channels), *(int(size) for size in side))
        predictor = f"roi_heads.{part}_predictor"
        names = tuple(f"{predictor}.{output}" for output in outputs) if outputs else (predictor,)
        graphs.append(_capture(_RegionHead(plain, part), shape, f"roi_heads.{part}", names))
    return tuple(graphs)


# What their predictors return.
_REGION_HEADS: dict[str, tuple[str, ...]] = {"box": ("cls_score", "bbox_pred"), "mask": (), "keypoint": ()}


class _Backbone(nn.Module):
    """A detector's pyramid and the heads that see all of it, with the names of their tensors."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone = detector.backbone
        if hasattr(detector, "rpn"):
            self.rpn = nn.Module()
            self.rpn.head = detector.rpn.head
        else:
            self.head = detector.head
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Levels of the pyramid, then one head's outputs of all levels, then the other's."""
        levels = list(self.backbone(images).values())
        if hasattr(self, "rpn"):
            head: Any = self.rpn.head
            logits, boxes = head(levels)
            return (*levels, *logits, *boxes)
        classes: Any = self.head.classification_head
        regression: Any = self.head.regression_head
        return (
            *levels,
            *(classes.cls_logits(classes.conv(level)) for level in levels),
            *(regression.bbox_reg(regression.conv(level)) for level in levels),
        )


class _RegionHead(nn.Module):
    """The head and the predictor of pooled regions, with the names of their tensors."""

    def __init__(self, detector: Any, part: str) -> None:
        super().__init__()
        self.roi_heads = nn.Module()
        for name in (f"{part}_head", f"{part}_predictor"):
            setattr(self.roi_heads, name, getattr(detector.roi_heads, name))
        self._part = part
        self.eval()

    def forward(self, regions: Tensor) -> Any:
        """What the predictor makes of pooled regions ``(n, channels, size, size)``."""
        head, predictor = (getattr(self.roi_heads, f"{self._part}_{name}") for name in ("head", "predictor"))
        return predictor(head(regions))


def _plain_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation without parametrizations, on the CPU, with ordinary batch norms."""
    plain = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    for module in list(plain.modules()):
        if "_original_forward" in module.__dict__:
            module.__dict__.pop("forward")  # what a run puts around it: autocast, and the module that was copied
        if parametrize.is_parametrized(module):
            parametrizations: Any = module.parametrizations
            values = {name: getattr(module, name).detach().clone() for name in parametrizations}
            # PyTorch's own removal would change the class, which the copied module shares.
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations
            for name, value in values.items():
                module.register_parameter(name, nn.Parameter(value, requires_grad=False))
    for path, module in list(plain.named_modules()):
        if is_batch_norm(module) and not isinstance(module, nn.modules.batchnorm._BatchNorm):
            frozen: Any = module  # computes with vectors what is exported as one operation of an ordinary one
            ordinary = nn.BatchNorm2d(frozen.weight.numel(), eps=frozen.eps).eval().requires_grad_(False)
            ordinary.load_state_dict(frozen.state_dict(), strict=False)
            owner, _, leaf = path.rpartition(".")
            setattr(plain.get_submodule(owner), leaf, ordinary)
    return plain


def _capture(model: nn.Module, shape: tuple[int, ...], name: str, outputs: tuple[str, ...] | None) -> Graph:
    graph_input = GraphInput("input", shape)
    example = torch.zeros(_BATCH, *(size or _ANY_SIZE for size in shape))

    def attempt(sizes: dict[int, Any] | None) -> Graph:
        with _quiet():
            exported = torch.export.export(model, (example,), dynamic_shapes=None if sizes is None else (sizes,))
        return _map(exported, graph_input, name, outputs)

    # Exporting runs the model's own forward: it may fail in any way.
    try:
        graph = attempt({0: Dim.AUTO})
    except SternaError as error:
        raise SternaError(f"{_named(name)} has operations that no graph holds: {error}") from None
    except Exception:
        try:
            graph = attempt(None)
        except Exception as error:
            reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
            raise SternaError(f"PyTorch cannot export {_named(name)}: {reason}") from error
    if any(node.operator.startswith("resize_") for node in graph.nodes):
        # Sizes that follow from the input's are seen as such if those are free, which takes longer to export.
        with suppress(Exception):
            graph = attempt(dict.fromkeys((0, *range(2, 1 + len(shape))), Dim.AUTO))
    return graph


def _named(name: str) -> str:
    return f"the network {name!r}" if name else "the network"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without PyTorch's reports about what it could not find out, which are no matter of the user."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _map(exported: ExportedProgram, graph_input: GraphInput, name: str, outputs: tuple[str, ...] | None) -> Graph:
    """The graph of an exported program; SternaError lists what is not supported."""
    signature = exported.graph_signature
    tensors = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    placeholders = [node for node in exported.graph.nodes if node.op == "placeholder"]
    parameters = {node: tensors[node.name] for node in placeholders if node.name in tensors}
    tape = Tape(parameters, [node for node in placeholders if node.name in signature.user_inputs])
    for node in exported.graph.nodes:
        if node.op == "call_function":
            _map_node(tape, node)
    by_name = {node.name: node for node in exported.graph.nodes}
    results = [tape.value(by_name[str(result)]) for result in signature.user_outputs]
    if outputs is None:
        outputs = ("output",) if len(results) == 1 else tuple(f"output{place}" for place in range(len(results)))
    return _pruned(tape, graph_input, name, list(zip(outputs, results, strict=True)))


def _map_node(tape: Tape, node: fx.Node) -> None:
    if node.target is operator.getitem and node.args[0] in tape.cells and node.args[1] == 0:
        tape.cells[node] = tape.cells[node.args[0]]  # type: ignore[index]  # the second is the place of a maximum
        return
    value = node.meta.get("val")
    if not isinstance(value, Tensor | tuple | list):
        return  # sizes, and what checks them
    try:
        handle(tape, node)
    except Unsupported as reason:
        where = list((node.meta.get("nn_module_stack") or {"": ("", None)}).values())[-1][0]
        named = " ".join(text for text in (str(node.target).removesuffix(".default"), str(reason)) if text)
        tape.refuse(node, named, where)


def _pruned(tape: Tape, graph_input: GraphInput, name: str, outputs: list[tuple[str, int]]) -> Graph:
    """Without the nodes that no output needs."""
    needed = {value for _, value in outputs}
    for place in reversed(range(len(tape.nodes))):
        if place + 1 in needed:
            needed.update(tape.nodes[place].inputs)
    refused = [node for place, node in enumerate(tape.nodes) if place + 1 in needed and isinstance(node, Refused)]
    if refused:
        raise SternaError(_listed(refused))
    kept = [place for place in range(len(tape.nodes)) if place + 1 in needed]
    renumbered = {0: 0, **{place + 1: number for number, place in enumerate(kept, 1)}}
    nodes = tuple(
        Node(node.operator, tuple(renumbered[value] for value in node.inputs), node.parameters, node.attributes)
        for node in (tape.nodes[place] for place in kept)
        if isinstance(node, Node)
    )
    return Graph(name, (graph_input,), nodes, tuple((output, renumbered[value]) for output, value in outputs))


def _listed(refused: list[Refused]) -> str:
    """Each operation once, with the first places where it is."""
    places: dict[str, dict[str, None]] = {}
    for operation in refused:
        places.setdefault(operation.text, {})[repr(operation.where) if operation.where else "the top"] = None
    texts = []
    for text, found in places.items():
        more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        texts.append(f"{text} at {', '.join(list(found)[:_LISTED])}{more}")
    return "; ".join(texts)
