"""The operator's file of adapters: who has which, and what is wrong in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyahead.engine.store import SetupError
from keyahead.service.adapters import TenantAdapters, open_adapters
from keyahead.service.config import ServiceConfig
from tests import peft

MODULES = {"mlp.down_proj": peft.SMOL["mlp.down_proj"]}


def opened(folder: Path, text: str) -> TenantAdapters:
    (folder / "adapters").write_text(text)
    return open_adapters(ServiceConfig(model_folder=folder, model_name="smollm2-135m", adapters_file=folder / "adapters"))


def test_each_tenant_has_its_own(tmp_path: Path) -> None:
    """Folders are beside the file unless absolute; a user has the tenant's; who is not named has none."""
    for seed in (1, 2):
        peft.save(tmp_path / str(seed), peft.matrices(seed, layers=(0,), modules=MODULES))
    found = opened(tmp_path, f"# ours\nacme: 1\n\nother:{tmp_path / '2'}\nthird:1\n")
    assert found.of("acme") is found.of("acme/ann") is found.of("third")
    assert len({found.fingerprint(owner) for owner in ("acme", "other", "nobody")}) == 3
    adapter = found.of("other")
    assert adapter is not None
    assert found.version("other") == f"+{adapter.digest[:12]}"
    assert (found.of("nobody"), found.version("nobody"), found.fingerprint("nobody")) == (None, "", "")


def test_without_a_file_nobody_has_one(tmp_path: Path) -> None:
    """The model as it is."""
    assert open_adapters(ServiceConfig(model_folder=tmp_path)).of("default") is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("acme", r"adapters_file \(KEYAHEAD_ADAPTERS_FILE\) line 1 must be tenant:FOLDER"),
        ("a:1\n:1", "line 2 must be"),
        ("acme/ann:1", "line 1 must be"),
        ("acme:1\nacme:1", "gives acme two adapters"),
        ("acme:nowhere", "nowhere.*cannot be read"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    """With its number and the cure."""
    peft.save(tmp_path / "1", peft.matrices(1, layers=(0,), modules=MODULES))
    with pytest.raises(SetupError, match=complaint):
        opened(tmp_path, text)
