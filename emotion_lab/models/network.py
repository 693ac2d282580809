"""The interface that a single network and an ensemble share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor
from torch.nn import Parameter

from emotion_lab.models.base import Backbone, InputSpec

if TYPE_CHECKING:
    from typing_extensions import Self


class Network(Protocol):
    """A single :class:`EmotionNet` or an :class:`Ensemble`, for inference.

    Attributes:
        spec: Input size, channels and normalisation.
    """

    spec: InputSpec

    @property
    def backbone(self) -> Backbone:
        """The backbone; of an ensemble, that of the first member."""

    def __call__(self, images: Tensor) -> Any:
        """Return logits (B, K) of images (B, C, S, S), values 0..255."""

    def eval(self) -> Self:
        """Switch to eval mode; see :meth:`torch.nn.Module.eval`."""

    def half(self) -> Self:
        """Cast to float16; see :meth:`torch.nn.Module.half`."""

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freeze or unfreeze; see :meth:`torch.nn.Module.requires_grad_`."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move or cast; see :meth:`torch.nn.Module.to`."""

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Return the parameters; see :meth:`torch.nn.Module.parameters`."""

    def state_dict(self) -> dict[str, Any]:
        """Return the weights; see :meth:`torch.nn.Module.state_dict`."""
