"""Reference engine: torch runs a transformers model."""

import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from milvus_rerank.engines.base import Batch, Label, as_logits
from milvus_rerank.engines.packed import PackedClassifier, can_pack
from milvus_rerank.errors import DeviceError, InputError, OutOfMemoryError, ScoreError
from milvus_rerank.forks import ForkLock, after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    ToDevice = Callable[[NDArray[np.int64]], torch.Tensor]
    Forward = Callable[[Any, Batch, ToDevice], torch.Tensor]

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Messages of torch's allocators when they fail; the CPU's allocator raises a bare RuntimeError.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


def classify(model: Any, batch: Batch, to_device: "ToDevice") -> torch.Tensor:
    """Run a sequence classification model and return its logits, shape ``(pairs, labels)``."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if batch.token_type_ids is not None:
        inputs["token_type_ids"] = batch.token_type_ids
    logits: torch.Tensor = model(**{name: to_device(array) for name, array in inputs.items()}).logits
    return logits


class TorchEngine:
    """Run a model with torch.

    :param model: a transformers model, in any dtype and on any device.
    :param device: the device, as :func:`pick_device` returns it.
    :param dtype: one of :data:`DTYPES`.
    :param threads: the most CPU threads of a forward pass; None keeps torch's setting.
    :param forward: the function that runs the model on a batch and returns logits; the default is for sequence
        classification.
    :param label: the label that is the score; None for a model with one label.
    """

    name = "torch"
    pad_to_multiple_of = 1

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        threads: int | None = None,
        forward: "Forward" = classify,
        label: Label | None = None,
    ) -> None:
        if device == "cpu" and threads is not None and threads < torch.get_num_threads():
            torch.set_num_threads(threads)  # for the whole process: torch has only this setting
        # Each calling thread gets a thread pool from torch: two forward passes at once only compete for the cores.
        self._turn = ForkLock() if device == "cpu" else contextlib.nullcontext()
        # Events, kernels of Triton and new streams go to the thread's current device, which is another GPU's otherwise.
        self._here = partial(torch.cuda.device, device) if device.startswith("cuda") else contextlib.nullcontext
        exact = {name: buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq")}
        self._model: Any = model.to(device=torch.device(device), dtype=DTYPES[dtype]).eval()
        for name, frequencies in exact.items():  # in half precision, angles are off by whole radians at position 500
            parent, _, leaf = name.rpartition(".")
            setattr(self._model.get_submodule(parent), leaf, frequencies.to(torch.device(device)))
        self.packed = forward is classify and can_pack(model, device, dtype)
        with self._here():
            self._forward = PackedClassifier(self._model) if self.packed else forward
        self._label = label
        self.device = device
        self.dtype = dtype

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Run one forward pass. Logits are float32 for weights of any dtype, so that a later sigmoid makes no ties.

        :param batch: the padded pairs.
        :returns: raw logits, shape ``(pairs,)``.
        :raises OutOfMemoryError: if torch cannot allocate the memory for the batch.
        """
        return self.start(batch)()

    def start(self, batch: Batch) -> "Callable[[], NDArray[np.float32]]":
        """Start a forward pass. A GPU works on it while the caller prepares the next batch.

        :param batch: the padded pairs.
        :returns: a function that waits for the logits and returns them.
        :raises OutOfMemoryError: if torch cannot allocate the memory for the batch.
        """
        try:
            with self._turn, self._here(), torch.inference_mode():
                output, finished = self._to_host(self._forward(self._model, batch, self._to_device).float())
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        else:

            def wait() -> NDArray[np.float32]:
                finished()
                return as_logits(output.numpy(), len(batch.input_ids), type(self._model).__name__, self._label)

            return wait
        # Outside the except block: the traceback there would keep the failed batch's tensors alive.
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        raise OutOfMemoryError(f"a batch of shape {batch.input_ids.shape} does not fit the memory of {self.device}")

    def _to_host(self, output: torch.Tensor) -> "tuple[torch.Tensor, Callable[[], object]]":
        """Start the copy to the CPU; return the copy, and a function that waits for it."""
        if not output.is_cuda:
            return output.cpu(), lambda: None
        copy = torch.empty(output.shape, dtype=output.dtype, pin_memory=True)
        copy.copy_(output, non_blocking=True)
        event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return copy, event.synchronize

    def _to_device(self, array: NDArray[np.int64]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if not self.device.startswith("cuda"):
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)  # the copy overlaps with the GPU's work


def use_one_thread_in_forks() -> None:
    """Limit torch to one CPU thread in forked processes: the thread that forked would wait for the parent's threads."""
    # Even if it is one: this also renews a pool of torch, which several threads must not do at once.
    after_fork(TorchEngine, lambda _: torch.set_num_threads(1))


def is_out_of_memory(error: BaseException) -> bool:
    """Return True for errors of torch's CUDA, MPS and CPU allocators."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)


def pick_device(device: str | None) -> str:
    """Return the torch device to use, after checking that it is available.

    :param device: ``cpu``, ``cuda``, ``cuda:n``, ``mps``; None, "" or ``auto`` take the first GPU, else the CPU.
    :returns: ``cpu``, ``mps`` or ``cuda:n``.
    :raises InputError: if the name is not a device that this package runs on.
    :raises DeviceError: if this machine or this build of torch lacks the device.
    """
    if device in (None, "", "auto"):
        return "cuda:0" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device must be 'cpu', 'cuda', 'cuda:n', 'mps' or 'auto', got {device!r}") from error
    if parsed.type == "cpu":
        return "cpu"
    if parsed.type == "mps":
        if not torch.backends.mps.is_available():
            raise DeviceError(f"device {device!r} is not available. {_devices()}")
        return "mps"
    if parsed.type != "cuda":
        raise InputError(f"device must be 'cpu', 'cuda', 'cuda:n', 'mps' or 'auto', got {device!r}")
    index = parsed.index or 0
    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        raise DeviceError(f"device {device!r} is not available. {_devices()}")
    return f"cuda:{index}"


def free_gpu_memory(device: str) -> int:
    """Return the free bytes of a CUDA device."""
    return int(torch.cuda.mem_get_info(device)[0])


def identity() -> torch.nn.Module:
    """Return an activation that leaves logits unchanged."""
    return torch.nn.Identity()


def has_bfloat16() -> bool:
    """Tell whether this CPU multiplies bfloat16 matrices in hardware."""
    return torch.cpu._is_avx512_bf16_supported()


def torch_activation(name: str) -> "Callable[[NDArray[np.float32]], NDArray[np.float32]]":
    """Return an activation of ``torch.nn`` as a function on numpy arrays.

    :param name: a class name in ``torch.nn`` whose constructor needs no argument, such as ``Tanh``.
    :returns: a function from float32 logits, shape ``(pairs,)``, to scores of the same shape.
    :raises InputError: if torch has no such class.
    """
    module = getattr(torch.nn, name, None)
    if module is None:
        raise InputError(f"torch.nn has no activation named {name!r}")
    return on_numpy(module())


def on_numpy(function: "Callable[[Any], Any]") -> "Callable[[NDArray[np.float32]], NDArray[np.float32]]":
    """Return a function on float32 tensors of shape ``(pairs,)`` as a function on numpy arrays."""

    def apply(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            scores = function(torch.from_numpy(logits))
        if not isinstance(scores, torch.Tensor) or scores.shape != logits.shape:
            returned = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
            raise ScoreError(f"the activation must return a tensor of shape {logits.shape}, got {returned}")
        return scores.float().numpy()

    return apply


def to_tensor(scores: "float | Sequence[float]", device: str) -> torch.Tensor:
    """Return numbers as a float32 tensor of the same shape on a device."""
    return torch.tensor(scores, dtype=torch.float32, device=device)


def _devices() -> str:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = ["cpu", *(f"cuda:{index}" for index in range(count))]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return f"This machine has: {', '.join(devices)} (torch {torch.__version__})"
