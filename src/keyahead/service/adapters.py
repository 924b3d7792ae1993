"""Which tenant's requests are decoded with which LoRA adapter, as a file of the operator's says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from keyahead.engine import adapters, catalogue
from keyahead.engine.adapters import Adapter
from keyahead.engine.store import SetupError
from keyahead.service.config import ServiceConfig, name


class TenantAdapters:
    """The adapters in force; they do not change while the service runs."""

    def __init__(self, by_tenant: Mapping[str, Adapter] | None = None) -> None:
        self._by_tenant = dict(by_tenant or {})

    def of(self, owner: str) -> Adapter | None:
        """That of a tenant, or of tenant/user where users are kept apart; None for the model as it is."""
        return self._by_tenant.get(owner.partition("/")[0])

    def fingerprint(self, owner: str) -> str:
        """What tells answers with another adapter apart; empty without one."""
        adapter = self.of(owner)
        return "" if adapter is None else f"+{adapter.digest}"

    def version(self, owner: str) -> str:
        """What clients are told behind the model's version; empty without an adapter."""
        adapter = self.of(owner)
        return "" if adapter is None else f"+{adapter.version}"


def open_adapters(config: ServiceConfig) -> TenantAdapters:
    """Those that `adapters_file` names, read and checked; a folder that several tenants share once. Raises SetupError."""
    if config.adapters_file is None:
        return TenantAdapters()
    model = catalogue.get(config.model_name)
    loaded: dict[Path, Adapter] = {}
    by_tenant: dict[str, Adapter] = {}
    for tenant, folder in _lines(config.adapters_file):
        if tenant in by_tenant:
            raise SetupError(f"{name('adapters_file')} gives {tenant} two adapters: remove one of the lines.")
        if folder not in loaded:
            loaded[folder] = adapters.load(folder, model)
        by_tenant[tenant] = loaded[folder]
    return TenantAdapters(by_tenant)


def _lines(path: Path) -> list[tuple[str, Path]]:
    """The file's lines `tenant:folder`, without blank ones and `#` comments; a relative folder is beside the file."""
    found = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        tenant, _, folder = line.strip().partition(":")
        if not tenant or not folder or "/" in tenant:
            raise SetupError(f"{name('adapters_file')} line {number} must be tenant:FOLDER, with the folder of an adapter: correct it.")
        found.append((tenant, path.parent / folder.strip()))
    return found
