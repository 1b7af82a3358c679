"""What a model is built from: its size and layout, and the config file that a saved model carries."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from transformers import PretrainedConfig

from foundation.channels import Channel
from foundation.recording import CovariateSpec


@dataclass
class ModelConfig:
    """Size and layout of a model.

    Attributes:
        width: D.
        depth: Blocks.
        heads: Attention heads.
        feed_forward: Hidden width of the feed-forward part.
        dropout: On the residual branches.
        layout: `fused`: one token per bin, the sum of its modalities. `interleaved`: one per modality and bin (NEDS).
        private_rank: P, rank of the couplings between a session's own units.
        embedding: E, size of a contrastive embedding.
        temperature: Of the contrastive similarity.
        learn_temperature: Train it.
    """

    width: int = 64
    depth: int = 2
    heads: int = 4
    feed_forward: int = 256
    dropout: float = 0.0
    layout: Literal["fused", "interleaved"] = "fused"
    private_rank: int = 8
    embedding: int = 16
    temperature: float = 0.1
    learn_temperature: bool = False

    def __post_init__(self) -> None:
        """Reject a layout that does not exist, and sizes that no tensor has."""
        if self.layout not in ("fused", "interleaved"):
            raise ValueError(f"model.layout is {self.layout!r}, expected 'fused' or 'interleaved'")
        for name in ("width", "depth", "heads", "feed_forward", "private_rank", "embedding"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} is {getattr(self, name)}, expected at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout is {self.dropout}, expected a number from 0 to below 1")
        if not self.temperature > 0:
            raise ValueError(f"model.temperature is {self.temperature}, expected a positive number")


class FoundationConfig(PretrainedConfig):
    """Everything needed to build the model's tensors; names of units and sessions are in sidecars."""

    model_type = "foundation"

    def __init__(
        self,
        model: dict[str, Any] | None = None,
        channels: list[dict[str, Any]] | None = None,
        bin_size_s: float = 0.02,
        window_s: float = 2.0,
        num_units: int = 0,
        num_sessions: int = 0,
        names: dict[str, dict[str, str]] | None = None,
        **kwargs: Any,
    ) -> None:
        self.model = model or asdict(ModelConfig())
        self.channels = channels or []
        self.bin_size_s = bin_size_s
        self.window_s = window_s
        self.num_units = num_units
        self.num_sessions = num_sessions
        # Dataset -> covariate -> channel that reads it, where the two have not one name (`foundation.mixture`).
        self.names = names or {}
        super().__init__(**kwargs)


def channel_to_dict(channel: Channel) -> dict[str, Any]:
    """A channel as JSON."""
    return asdict(channel)


def channel_from_dict(raw: dict[str, Any]) -> Channel:
    """A channel from JSON."""
    known = {**raw, "spec": CovariateSpec(**raw["spec"]), "mean": tuple(raw["mean"]), "std": tuple(raw["std"])}
    return Channel(**known)
