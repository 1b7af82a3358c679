"""Adapters, trunk and heads as one `transformers` model: save, load, add animals, predict.

The forward pass turns a batch and its masks into trunk states, log-rates of hidden spikes and predictions of hidden
covariates. Which loss is made of them is the business of `foundation.objectives`.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers import initialization as init

from foundation import sidecars
from foundation.adapters import (
    NUM_LAGS,
    Adapters,
    RowLayout,
    SessionPart,
    SessionRows,
    center_counts,
    drift_basis,
    lag_matrices,
    log_rates,
)
from foundation.channels import Channel, channel_slices
from foundation.masking import Masks
from foundation.mixture import Names
from foundation.model_card import model_card
from foundation.model_config import FoundationConfig, ModelConfig, channel_from_dict, channel_to_dict
from foundation.sampling import STRUCTURE, Batch
from foundation.trunk import Trunk

# Spread of new rows. Near zero the rows of all sessions find one shared low-rank code; at unit scale the read-in stays
# a random projection.
READ_IN_STD, READ_OUT_STD, PRIVATE_IN_STD, SESSION_STD = 0.05, 0.01, 0.1, 0.01
LOG_RATE_RANGE = (-14.0, 5.0)


@dataclass
class Output:
    """What a forward pass yields (B windows, T bins, D width, K trials in a window).

    Attributes:
        states: `(B, T, D)` of the bins' spike tokens.
        log_rates: Per session `(n, T, N_s)` log expected counts of its n windows with predicted spikes, else None.
        covariates: Per channel `(B, T, width)` for time scope, `(B, K, width)` for trial scope, None for no target:
            normalized values, class logits or log counts.
    """

    states: torch.Tensor
    log_rates: list[torch.Tensor | None]
    covariates: list[torch.Tensor | None]


def new_trunk(shape: ModelConfig) -> Trunk:
    """A trunk of the given shape, with torch's own weights."""
    return Trunk(shape.width, shape.depth, shape.heads, shape.feed_forward, shape.dropout)


class FoundationModel(PreTrainedModel):
    """One trunk for all animals, one row of numbers per unit and session."""

    config_class = FoundationConfig
    base_model_prefix = "foundation"
    main_input_name = "batch"

    def __init__(self, config: FoundationConfig) -> None:
        super().__init__(config)
        shape = ModelConfig(**config.model)
        self.shape = shape
        self.channels = [channel_from_dict(c) for c in config.channels]
        self.slices = channel_slices(self.channels)
        num_values = sum(channel.width for channel in self.channels)
        width = shape.width
        self.adapters = Adapters(RowLayout(width, shape.private_rank), config.num_units, config.num_sessions)
        # Shown instead of what is hidden or missing: spikes, each channel, each feature of the trial structure.
        self.mask_vectors = nn.Parameter(torch.empty(1 + len(self.channels) + len(STRUCTURE), width))
        self.value_embedding = nn.Parameter(torch.empty(num_values, width))
        self.modality_vectors = nn.Parameter(torch.empty(len(self.channels) + 1, width))
        self.structure_embedding = nn.Linear(len(STRUCTURE), width)
        self.trunk = new_trunk(shape)
        self.heads = nn.ModuleList(nn.Linear(width, c.width) if c.is_target else nn.Identity() for c in self.channels)
        self.pool_queries = nn.Parameter(torch.empty(len(self.channels), width))
        self.projections = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, shape.embedding))
                for name in ("time", "behavior")
            }
        )
        self.log_temperature = nn.Parameter(torch.empty(2), requires_grad=shape.learn_temperature)
        self.provenance: dict[str, Any] = {"pretraining_subjects": [], "adapted": {}}
        # Convex read-outs and fingerprints of sessions, named arrays by recording id (foundation.readout and
        # foundation.fingerprint make them), and what the pretraining units teach: the prior over the weights
        # (foundation.encoding), and what fingerprints are made with.
        self.readouts: dict[str, dict[str, torch.Tensor]] = {}
        self.population: dict[str, torch.Tensor] = {}
        self.post_init()

    @classmethod
    def create(
        cls,
        shape: ModelConfig,
        channels: list[Channel],
        bin_size_s: float,
        window_s: float,
        seed: int,
        names: Names | None = None,
    ) -> FoundationModel:
        """A new model without sessions; the same seed gives the same weights."""
        config = FoundationConfig(
            model=asdict(shape),
            channels=[channel_to_dict(channel) for channel in channels],
            bin_size_s=bin_size_s,
            window_s=window_s,
            names={dataset: dict(rename) for dataset, rename in (names or {}).items()},
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, FoundationModel):
            init.normal_(module.mask_vectors, std=0.02)
            init.normal_(module.value_embedding, std=0.1)
            init.normal_(module.modality_vectors, std=0.02)
            init.zeros_(module.pool_queries)
            init.constant_(module.log_temperature, float(np.log(module.shape.temperature)))
        elif isinstance(module, Adapters):
            # Only reached for rows that a checkpoint lacks; saved models hold all of theirs.
            for table in (module.unit_rows, module.session_rows, module.unit_center):
                init.zeros_(table)

    # -- sessions -----------------------------------------------------------------------------------------------------

    def new_part(
        self,
        recording_id: str,
        subject_id: str,
        unit_ids: list[str],
        mean_counts: np.ndarray,
        mean_roots: np.ndarray,
        seed: int,
    ) -> SessionPart:
        """Rows for a session, near zero and drawn from (seed, recording id); `add_parts` puts them into the model.

        Args:
            recording_id: The session.
            subject_id: Its animal.
            unit_ids: Names of its N units, in the order of its units table.
            mean_counts: `(N,)` mean count per bin over train bins; its logarithm starts the bias.
            mean_roots: `(N,)` mean square root of the counts.
            seed: Any integer.
        """
        layout = self.adapters.layout
        # torch's generator reads 32 bits of its seed, so both go into those.
        generator = torch.Generator().manual_seed(zlib.crc32(recording_id.encode(), seed & 0xFFFFFFFF))
        rows = torch.zeros(len(unit_ids), layout.num_columns)
        parts = layout.slices()
        for part, std in (("read_in", READ_IN_STD), ("read_out", READ_OUT_STD), ("private_in", PRIVATE_IN_STD)):
            rows[:, parts[part]] = std * torch.randn(rows[:, parts[part]].shape, generator=generator)
        rows[:, parts["bias"]] = torch.from_numpy(np.log(np.maximum(mean_counts, 1e-4))).float()[:, None]
        session = SESSION_STD * torch.randn(layout.width, generator=generator)
        center = torch.from_numpy(np.asarray(mean_roots)).float()
        return SessionPart(subject_id, unit_ids, rows, session, center)

    def add_parts(self, parts: dict[str, SessionPart]) -> None:
        """Add sessions whose rows exist, behind the others."""
        self.adapters.append(parts)
        self._count_rows()

    def keep_sessions(self, recording_ids: list[str]) -> None:
        """Drop the rows and read-outs of all sessions but these."""
        self.adapters.keep(recording_ids)
        self.readouts = {key: value for key, value in self.readouts.items() if key in recording_ids}
        self._count_rows()

    def _count_rows(self) -> None:
        self.config.num_units = len(self.adapters.unit_rows)
        self.config.num_sessions = len(self.adapters.session_rows)

    def unit_embeddings(self, recording_id: str) -> np.ndarray:
        """A vector per unit, comparable between animals: `(N, K)` float32.

        The fingerprint (`foundation.fingerprint`) where the session has one, else the adapter rows.
        """
        fingerprint = self.readouts.get(recording_id, {}).get("fingerprint")
        return self.adapter_rows(recording_id) if fingerprint is None else fingerprint.numpy()

    def adapter_rows(self, recording_id: str) -> np.ndarray:
        """What gradient descent has learned of each unit, comparable between sessions: `(N, K)` float32, for probes.

        Read-in and read-out rows (on the shared trunk), the own-history weights, and of the private part what does not
        depend on its basis, which every session has for itself: the unit's coupling to itself per lag, and the sizes of
        its rows. Rate (bias) and drift are left out.
        """
        rows = self.adapters.rows(recording_id)
        read_in, out = rows.part("private_in"), rows.part("private_out")
        out = out.view(len(out), NUM_LAGS, -1)
        itself = torch.einsum("nlp,np->nl", out, read_in)
        sizes = torch.cat([out.norm(dim=2), read_in.norm(dim=1, keepdim=True)], dim=1)
        parts = [rows.part("read_in"), rows.part("read_out"), rows.part("own"), itself, sizes]
        return torch.cat(parts, dim=1).float().cpu().numpy()

    def shared_parameters(self) -> Iterable[nn.Parameter]:
        """Trunk, heads and embeddings: everything that is not a session's."""
        return (p for name, p in self.named_parameters() if not name.startswith("adapters."))

    # -- forward ------------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, masks: Masks, rows: dict[str, SessionRows] | None = None) -> Output:
        """States and predictions of a batch.

        Args:
            batch: Windows on the model's device.
            masks: What is hidden; log-rates are made for windows whose spikes are predicted.
            rows: Rows checked out for training; by default the tables' own.
        """
        if rows is None:
            rows = {key: self.adapters.rows(key) for key in batch.recording_ids}
        sessions = [rows[key] for key in batch.recording_ids]
        visible, spike_tokens = self._read_in(batch, masks, sessions)
        states, covariate_states = self._run_trunk(batch, masks, spike_tokens)
        return Output(
            states=states,
            log_rates=self._read_out(batch, masks, sessions, visible, states),
            covariates=self._predict_covariates(batch, covariate_states),
        )

    def project(self, states: torch.Tensor, head: str) -> torch.Tensor:
        """Contrastive embeddings `(..., E)` of unit length; `head` is "time" or "behavior"."""
        return nn.functional.normalize(self.projections[head](states).float(), dim=-1)

    def _read_in(
        self, batch: Batch, masks: Masks, sessions: list[SessionRows]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Centered visible counts per session, and the sum of spikes, session and trial structure `(B, T, D)`."""
        visible, tokens, first = [], [], 0
        for spikes, hidden, rows, size in zip(batch.spikes, masks.spikes, sessions, batch.sizes):
            outside = ~batch.valid[first : first + size, :, None]
            shown = center_counts(spikes, hidden | outside, rows.center)
            visible.append(shown)
            tokens.append(shown @ rows.part("read_in") + rows.session)
            first += size
        structure = batch.structure.masked_fill(masks.structure, 0.0)
        spike_tokens = torch.cat(tokens) + self.structure_embedding(structure)
        spike_tokens = spike_tokens + masks.bins[:, :, None] * self.mask_vectors[0]
        return visible, spike_tokens + masks.structure.to(structure.dtype) @ self.mask_vectors[-len(STRUCTURE) :]

    def _run_trunk(self, batch: Batch, masks: Masks, tokens: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """States of the spike tokens, and of each channel's tokens (the same ones when fused)."""
        num_windows, num_bins, width = tokens.shape
        readable = torch.tensor([c.is_input for c in self.channels], device=tokens.device, dtype=torch.bool)
        shown = batch.observed & ~masks.covariates & readable
        times = torch.arange(num_bins, device=tokens.device, dtype=torch.float32) * batch.bin_size_s
        times = times.expand(num_windows, num_bins)
        channel_masks = self.mask_vectors[1 : 1 + len(self.channels)]
        repeats = torch.tensor([c.width for c in self.channels], device=tokens.device, dtype=torch.long)
        values = batch.covariates * shown.repeat_interleave(repeats, dim=2)
        if self.shape.layout == "fused":
            tokens = tokens + values @ self.value_embedding + (~shown).to(tokens.dtype) @ channel_masks
            states = self.trunk(tokens, times, batch.valid)
            return states, [states] * len(self.channels)
        per_channel = [values[..., s] @ self.value_embedding[s] for s in self.slices]
        stacked = torch.stack([tokens, *per_channel], dim=2) + self.modality_vectors
        absent = (~shown).to(tokens.dtype)[..., None] * channel_masks
        stacked = torch.cat([stacked[:, :, :1], stacked[:, :, 1:] + absent], dim=2)
        per_bin = stacked.shape[2]
        states = self.trunk(
            stacked.flatten(1, 2),
            times.repeat_interleave(per_bin, dim=1),
            batch.valid.repeat_interleave(per_bin, dim=1),
        ).view(num_windows, num_bins, per_bin, width)
        return states[:, :, 0], [states[:, :, 1 + c] for c in range(len(self.channels))]

    def _read_out(
        self,
        batch: Batch,
        masks: Masks,
        sessions: list[SessionRows],
        visible: list[torch.Tensor],
        states: torch.Tensor,
    ) -> list[torch.Tensor | None]:
        lags = lag_matrices(states.shape[1], states.device)
        drift = drift_basis(batch.clock)
        num_visible = (batch.valid & ~masks.bins).sum(dim=1)
        predicted = masks.spikes_predicted.tolist()
        out: list[torch.Tensor | None] = []
        first = 0
        # One split has one gradient as large as the states, where a slice per session would make one for each.
        for shown, rows, own, size in zip(visible, sessions, states.split(batch.sizes), batch.sizes):
            local = [i for i in range(size) if predicted[first + i]]
            if not local:
                out.append(None)
            else:
                pick = slice(None) if len(local) == size else torch.tensor(local, device=states.device)
                span = slice(first, first + size)
                rates = log_rates(rows, own[pick], shown[pick], num_visible[span][pick], drift[span][pick], lags)
                out.append(rates.clamp(*LOG_RATE_RANGE))
            first += size
        return out

    def _predict_covariates(self, batch: Batch, states: list[torch.Tensor]) -> list[torch.Tensor | None]:
        num_trials = int(batch.trial.max()) + 1
        trial = torch.arange(max(num_trials, 1), device=batch.trial.device)
        inside = (batch.trial[:, :, None] == trial) & batch.valid[:, :, None]
        predictions: list[torch.Tensor | None] = []
        for c, channel in enumerate(self.channels):
            if not channel.is_target:
                predictions.append(None)
            elif channel.spec.scope == "time":
                predictions.append(self.heads[c](states[c]))
            else:
                # Attention over the bins of each trial with a learned query; a trial without bins stays 0.
                score = (states[c] @ self.pool_queries[c])[:, :, None].masked_fill(~inside, float("-inf"))
                weight = torch.softmax(score, dim=1).nan_to_num(0.0)
                predictions.append(self.heads[c](torch.einsum("btk,btd->bkd", weight, states[c])))
        return predictions

    # -- disk ---------------------------------------------------------------------------------------------------------

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Write config, safetensors, sidecars and a model card into a folder."""
        folder = Path(save_directory)
        super().save_pretrained(folder, *args, **kwargs)
        sidecars.save(folder, self.adapters, self.readouts, self.population, self.provenance)
        card = model_card(
            self.config.model,
            self.channels,
            (self.config.bin_size_s, self.config.window_s),
            (sum(p.numel() for p in self.shared_parameters()), self.adapters.layout.num_columns),
            self.adapters.sessions,
            self.adapters.units,
            self.provenance,
        )
        (folder / "README.md").write_text(card, encoding="utf-8")

    def push_to_hub(  # type: ignore[override]
        self, repo_id: str, *, private: bool | None = None, **options: Any
    ) -> str:
        """Upload what `save_pretrained` writes, the card included (that of transformers would take its place).

        Args:
            repo_id: Such as "USER/NAME"; made when missing.
            private: Of a new repository.
            options: Of `HfApi.upload_folder`: `revision`, `commit_message`, `create_pr`...

        Returns:
            URL of the commit.
        """
        import huggingface_hub

        api = huggingface_hub.HfApi(token=options.pop("token", None))
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, **options))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> FoundationModel:
        """Load a model folder or Hub repository, with its sidecars.

        Raises:
            ValueError: A file is missing or damaged, or a sidecar does not describe the tables.
        """
        path = str(pretrained_model_name_or_path)
        try:
            model = super().from_pretrained(path, *args, **kwargs)
            model.readouts, model.population, model.provenance = sidecars.load(path, model.adapters)
        except (SafetensorError, KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(
                f"{path}: not a model of this library, or damaged ({type(error).__name__}: {error}); save it again "
                "with save_pretrained, or take another copy"
            ) from error
        for parameter in model.parameters():
            # Views of the file start at any byte, and kernels round by alignment: copied, outputs stay bit-identical.
            parameter.data = parameter.data.clone()
        return model


AutoConfig.register("foundation", FoundationConfig)
AutoModel.register(FoundationConfig, FoundationModel)
