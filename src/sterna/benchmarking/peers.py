"""The engines of a benchmark: Sterna and its peers, each as its own documentation says to get the lowest latency.

An engine first imports its packages, then loads its model (which is timed), then runs. Each lives in a process of its
own (:mod:`sterna.benchmarking.worker`), with as many threads as all others. What takes long before there is a file to
load, such as quantization, is done once, in another process, by ``prepare``.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from sterna.errors import SternaError

SESSION = "sterna.session:InferenceSession"

Array = npt.NDArray[np.float32]

# What caps the code that oneDNN chooses, and with it OpenVINO; weakest first. Those that Sterna has too have its names
# for them: its avx512 needs the dot products of VNNI.
ONEDNN_CAPS: Mapping[str, str] = {
    "avx2": "AVX2",
    "avx2vnni": "AVX2_VNNI",
    "avx512core": "AVX512_CORE",
    "avx512": "AVX512_CORE_VNNI",
    "avx512bf16": "AVX512_CORE_BF16",
    "amx": "AVX512_CORE_AMX",
}
# Flags of processors (in the words of Linux) without which a cap means another one.
ISA_FLAGS: Mapping[str, str] = {
    "avx2": "avx2",
    "avx2vnni": "avx_vnni",
    "avx512core": "avx512bw",
    "avx512": "avx512_vnni",
    "avx512bf16": "avx512_bf16",
    "amx": "amx_int8",
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """What an engine is to do.

    Args:
        file: the ``.sterna`` file.
        shape: of the input, ``(n, channels, height, width)``.
        threads: for one run.
        folder: of files that ``prepare`` makes, and of ``float32.onnx``, the network for this shape, and
            ``calibration.npy``, arrays of this shape.
        isa: a key of :data:`ONEDNN_CAPS`; empty for all that the processor has.
        activations: of Sterna.
        ranges: of the values, for 8-bit activations, where the file has none.
        session: module and class of Sterna's session.
    """

    file: str
    shape: tuple[int, ...]
    threads: int
    folder: str
    isa: str = ""
    activations: str = "float32"
    ranges: tuple[tuple[float, float], ...] = ()
    session: str = SESSION

    @property
    def onnx(self) -> Path:
        """The network in float32, for this shape."""
        return Path(self.folder) / "float32.onnx"

    @property
    def calibration(self) -> Path:
        """What int8 engines calibrate with."""
        return Path(self.folder) / "calibration.npy"


class Engine:
    """An engine; what is said here is what most of them do.

    Attributes:
        name: for tables and ``--only``.
        packages: that it imports.
        needs_onnx: whether it starts from the network in ONNX.
        caps: instruction sets that it can be told to use at most.
        is_int8: whether it computes with 8 bits.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    needs_onnx: ClassVar[bool] = True
    caps: ClassVar[tuple[str, ...]] = ()
    is_int8: ClassVar[bool] = False

    def __init__(self, job: Job) -> None:
        self.job = job

    @classmethod
    def missing(cls) -> tuple[str, ...]:
        """Packages that are not installed."""
        wanted = (*cls.packages, "onnx") if cls.needs_onnx else cls.packages
        return tuple(package for package in wanted if find_spec(package) is None)

    @classmethod
    def available(cls) -> bool:
        """Whether everything that it needs is installed."""
        return not cls.missing()

    @classmethod
    def environment(cls, job: Job) -> dict[str, str]:
        """Variables of its process."""
        return {"OMP_NUM_THREADS": str(job.threads)}

    def prepare(self) -> None:
        """Make the files that :meth:`load` reads, in ``job.folder``."""

    def imports(self) -> None:
        """Import what is needed, so that loading does not pay for it."""
        for package in self.packages:
            importlib.import_module(package)

    def load(self) -> None:
        """Make everything ready to run."""
        raise NotImplementedError

    def run(self, array: Array) -> Array:
        """Compute the first output."""
        raise NotImplementedError


class Sterna(Engine):
    """Sterna's own session."""

    name = "sterna"
    needs_onnx = False
    caps = ("avx2", "avx512", "amx")

    def imports(self) -> None:
        """Import the module of the session."""
        module, _, name = self.job.session.partition(":")
        try:
            self._session_class: Any = getattr(importlib.import_module(module), name)
        except AttributeError:
            raise SternaError(f"this version of {module} has no {name}") from None

    def load(self) -> None:
        """Open the file."""
        calibrated = {"ranges": self.job.ranges} if self.job.ranges else {}
        self._session = self._session_class(
            self.job.file,
            threads=self.job.threads,
            isa=self.job.isa or None,
            activations=self.job.activations,
            **calibrated,
        )

    def run(self, array: Array) -> Array:
        """Compute the output."""
        result: Array = self._session.run(array)
        return result


class PyTorch(Engine):
    """PyTorch, eager, float32: the module that :func:`sterna.load` gives."""

    name = "pytorch"
    packages = ("torch", "torchvision")
    needs_onnx = False

    def imports(self) -> None:
        """Also import what builds modules."""
        super().imports()
        importlib.import_module("sterna.loading")

    def load(self) -> None:
        """Build the module and fill it."""
        import torch

        from sterna.loading import load

        torch.set_num_threads(self.job.threads)
        self._module: Any = load(self.job.file)

    def run(self, array: Array) -> Array:
        """Compute the output."""
        import torch

        with torch.inference_mode():
            result: Array = self._module(torch.from_numpy(array)).numpy()
        return result


class CompiledPyTorch(PyTorch):
    """PyTorch through ``torch.compile`` (inductor), float32; needs a C++ compiler."""

    name = "pytorch-compiled"

    def load(self) -> None:
        """Also wrap the module; it is compiled by the first run."""
        import torch

        super().load()
        self._module = torch.compile(self._module, dynamic=False)


class OnnxRuntime(Engine):
    """ONNX Runtime's own processor kernels, float32."""

    name = "onnxruntime"
    packages = ("onnxruntime",)

    def load(self) -> None:
        """Make the session."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.job.threads
        options.inter_op_num_threads = 1
        # Threads may spin within a run, but must not while other engines run.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        path = os.fspath(self.model())
        self._session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def model(self) -> Path:
        """The file to load."""
        return self.job.onnx

    def run(self, array: Array) -> Array:
        """Compute the output."""
        result: Array = self._session.run(None, {self._input: array})[0]
        return result


class OnnxRuntimeInt8(OnnxRuntime):
    """ONNX Runtime, int8: its static quantization, a scale for each filter, signed weights, unsigned activations."""

    name = "onnxruntime-int8"
    is_int8 = True

    def prepare(self) -> None:
        """Quantize."""
        _quantize_onnx(self.job, self.model())

    def model(self) -> Path:
        """The quantized network."""
        return Path(self.job.folder) / "onnxruntime_int8.onnx"


class OpenVino(Engine):
    """OpenVINO on the processor, float32, one stream, latency hint."""

    name = "openvino"
    packages = ("openvino",)
    caps = tuple(ONEDNN_CAPS)
    precision: ClassVar[str] = "f32"

    @classmethod
    def environment(cls, job: Job) -> dict[str, str]:
        """Also the cap of instruction sets, which is read once a process."""
        cap = {"ONEDNN_MAX_CPU_ISA": ONEDNN_CAPS[job.isa]} if job.isa else {}
        return super().environment(job) | cap

    def load(self) -> None:
        """Read and compile the model."""
        import openvino

        core = openvino.Core()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(self.job.threads),
            # The processors of this process may be fewer than the machine has, and that is to stay so.
            "ENABLE_CPU_PINNING": "NO",
        }
        if self.precision:
            settings["INFERENCE_PRECISION_HINT"] = self.precision
        self._request: Any = core.compile_model(os.fspath(self.model()), "CPU", settings).create_infer_request()

    def model(self) -> Path:
        """The file to load."""
        return self.job.onnx

    def run(self, array: Array) -> Array:
        """Compute the output."""
        self._request.infer([array], share_inputs=True, share_outputs=True)
        result: Array = self._request.get_output_tensor(0).data
        return result


class OpenVinoBf16(OpenVino):
    """OpenVINO, bfloat16; computed in float32 by processors that do not have it."""

    name = "openvino-bf16"
    caps = ("avx512bf16", "amx")
    precision = "bf16"


class OpenVinoInt8(OpenVino):
    """OpenVINO, int8: quantized by NNCF, or where that is not installed by ONNX Runtime; dense, without pruning.

    What is left in floating point is computed as OpenVINO chooses.
    """

    name = "openvino-int8"
    is_int8 = True
    precision = ""

    @classmethod
    def missing(cls) -> tuple[str, ...]:
        """One of two packages must be there to quantize with."""
        quantizer = () if find_spec("nncf") or find_spec("onnxruntime") else ("nncf",)
        return (*super().missing(), *quantizer)

    def prepare(self) -> None:
        """Quantize; both ways give a file that OpenVINO reads."""
        if find_spec("nncf") is None:
            _quantize_onnx(self.job, self.model())
            return
        import nncf
        import openvino

        images = list(np.load(self.job.calibration))
        quantized = nncf.quantize(
            openvino.Core().read_model(self.job.onnx), nncf.Dataset(images), subset_size=len(images)
        )
        openvino.save_model(quantized, self.model(), compress_to_fp16=False)

    def model(self) -> Path:
        """The quantized network; the name tells by whom."""
        return Path(self.job.folder) / ("nncf.xml" if find_spec("nncf") else "openvino_int8.onnx")


ENGINES: Mapping[str, type[Engine]] = {
    engine.name: engine
    for engine in (
        Sterna,
        PyTorch,
        CompiledPyTorch,
        OnnxRuntime,
        OnnxRuntimeInt8,
        OpenVino,
        OpenVinoBf16,
        OpenVinoInt8,
    )
}
"""By name, in the order of tables."""


def _quantize_onnx(job: Job, target: Path) -> None:
    import onnx

    from sterna.export.quantized_onnx import quantize

    onnx.save(quantize(onnx.load(job.onnx), np.load(job.calibration)), target)
