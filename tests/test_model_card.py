"""A model on the Hub and back, offline: what is uploaded is what is loaded, and its card says what it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from foundation.checkpoint import load_model
from foundation.model import FoundationModel

COMMIT = "0" * 40


class FakeApi:
    """Keeps a repository as the Hub's cache on this disk would."""

    cache: Path

    def __init__(self, token: str | None) -> None:
        assert token == "secret"

    def create_repo(self, repo: str, *, private: bool | None, exist_ok: bool) -> None:
        assert (private, exist_ok) == (True, True)
        (self.cache / f"models--{repo.replace('/', '--')}" / "refs").mkdir(parents=True)

    def upload_folder(self, *, repo_id: str, folder_path: str, **options: Any) -> str:
        assert options == {"commit_message": "first"}
        folder = self.cache / f"models--{repo_id.replace('/', '--')}"
        shutil.copytree(folder_path, folder / "snapshots" / COMMIT)
        (folder / "refs" / "main").write_text(COMMIT)
        return f"https://hub/{repo_id}/commit/{COMMIT}"


def test_a_model_comes_back_from_the_hub_as_it_was_pushed(
    pretrained: FoundationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    FakeApi.cache = tmp_path
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert (
        pretrained.push_to_hub("me/rats", private=True, token="secret", commit_message="first")
        == f"https://hub/me/rats/commit/{COMMIT}"
    )
    files = {path.name for path in (tmp_path / "models--me--rats/snapshots" / COMMIT).iterdir()}
    assert files >= {"README.md", "config.json", "model.safetensors", "provenance.json", "readouts.safetensors"}
    assert not [name for name in files if name.endswith((".py", ".bin", ".pt", ".pkl"))]
    for back in (FoundationModel.from_pretrained("me/rats"), load_model("hf://me/rats")):
        assert back.provenance == pretrained.provenance
        assert back.state_dict().keys() == pretrained.state_dict().keys()
        for name, tensor in pretrained.state_dict().items():
            assert torch.equal(back.state_dict()[name], tensor), name
        assert back.readouts.keys() == pretrained.readouts.keys()


def test_the_card_says_what_the_model_was_trained_on(pretrained: FoundationModel, tmp_path: Path) -> None:
    pretrained.save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["library_name"] == "foundation"
    for animal in pretrained.provenance["pretraining_subjects"]:
        assert animal in text
    assert f"| units with an adapter | {len(pretrained.adapters.units)} |" in text
    assert f"{sum(p.numel() for p in pretrained.shared_parameters()):,} shared" in text
    for channel in pretrained.channels:
        assert channel.spec.name in text
    assert "US12499131B2" in text
