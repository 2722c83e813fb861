"""The accelerator: what trains networks and measures plans, be it the processor or a graphics card.

The figures of a result do not depend on it. Latencies are those of the profiles of device and edge, and deployments,
whose accuracy and bytes a result records, run on the processor, whatever trained them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from autosplit.core.errors import ConfigError
from autosplit.core.machine import arithmetic_key, processor_name

if TYPE_CHECKING:
    import torch

__all__ = ["CPU", "Accelerator", "AcceleratorName", "find_accelerator"]

AcceleratorName = Literal["auto", "cpu", "cuda", "mps"]
"""`auto` is `cuda` where PyTorch sees a graphics card of NVIDIA or AMD, else `cpu`; `mps` is Apple's GPU."""

_BFLOAT16 = (8, 0)  # compute capability from which a card computes in it; emulated before


@dataclass(frozen=True)
class Accelerator:
    """Where tensors are computed with.

    Attributes:
        kind: As torch names this type of device.
    """

    kind: str

    @property
    def device(self) -> torch.device:
        """The device that torch puts tensors on."""
        import torch

        return torch.device(self.kind)

    @property
    def name(self) -> str:
        """For people: of the graphics card, or of the processor."""
        import torch

        if self.kind == "cuda":
            return torch.cuda.get_device_name()
        return "GPU of Apple" if self.kind == "mps" else processor_name()

    @property
    def half(self) -> torch.dtype | None:
        """The type of 16 bits that training computes in, where that is quicker; `None` = float32 throughout."""
        import torch

        if self.kind == "cuda":
            return torch.bfloat16 if torch.cuda.get_device_capability() >= _BFLOAT16 else torch.float16
        supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        return torch.bfloat16 if self.kind == "cpu" and supported() else None

    @property
    def arithmetic(self) -> str:
        """What the last bits of a sum of floats depend on here."""
        import torch

        return arithmetic_key() if self.kind == "cpu" else f"{torch.__version__} {self.kind} {self.name}"

    def wait(self) -> None:
        """Return when everything that was begun is done: before a clock is read."""
        import torch

        if self.kind in {"cuda", "mps"}:
            getattr(torch, self.kind).synchronize()


CPU = Accelerator("cpu")
"""The processor."""


def find_accelerator(name: AcceleratorName = "auto") -> Accelerator:
    """The accelerator of a name.

    Raises:
        ConfigError: PyTorch sees none of that kind on this machine.
    """
    import torch

    cuda = torch.cuda.is_available() if name in {"auto", "cuda"} else False
    if name == "cuda" and not cuda:
        raise ConfigError(f"accelerator 'cuda': PyTorch {torch.__version__} sees no graphics card here; look for one "
                          "with nvidia-smi, install a PyTorch that is built for it (pytorch.org), or leave it at auto")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("accelerator 'mps': PyTorch sees no GPU of Apple here; leave it at auto")
    return Accelerator("cuda") if cuda else Accelerator("mps") if name == "mps" else CPU
