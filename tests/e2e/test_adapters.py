"""The service's connection and the real engine in a real Triton: adapters by tenant, and one that is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyahead.engine import adapters, catalogue
from keyahead.engine.contract import EngineRequest
from keyahead.service.adapters import TenantAdapters
from keyahead.service.engine_client import EngineClient
from tests import peft
from tests.contract.conftest import SMALL, _cpu_engine

PROMPT = tuple(range(300, 340))


@pytest.fixture(scope="module")
def address(smol_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Triton whose engine has room for one of the adapters below."""
    for endpoint in _cpu_engine(tmp_path_factory.mktemp("triton"), smol_folder, max_lora_rank=8, lora_cache_mb=1):
        yield endpoint.address


async def ask(client: EngineClient, owner: str) -> tuple[list[int], bool]:
    """Six tokens, and whether the adapter's weights went with the request, or after it."""
    decode = client.decode(EngineRequest(input_ids=PROMPT, max_new_tokens=6, namespace=owner))
    tokens = [token async for response in decode for token in response.output_ids]
    return tokens, decode.has_weights


def test_tenants_get_their_own_model_though_only_one_adapter_fits(address: str, tmp_path: Path) -> None:
    """Two tenants with adapters and one without, in turn, twice: each gets its own answers, the same both times, whichever was evicted.

    Every user has a namespace of their own, so that nothing is found in the KV cache and all steps have the same shape.
    """
    model = catalogue.get(SMALL)
    folders = {seed: peft.save(tmp_path / str(seed), peft.matrices(seed, rank=8), r=8, lora_alpha=16) for seed in (1, 2)}
    tenants = TenantAdapters({f"tenant{seed}": adapters.load(folder, model) for seed, folder in folders.items()})

    async def main() -> list[list[tuple[list[int], bool]]]:
        client = EngineClient(address, tenants)
        client.start()
        async with asyncio.timeout(30):
            while not client.ready:
                await asyncio.sleep(0.05)
        rounds = [[await ask(client, f"tenant{seed}/{turn}") for seed in (1, 2, 3)] for turn in range(2)]
        again = await ask(client, "tenant2/2")
        await client.aclose()
        return [*rounds, [again]]

    first, second, (again,) = asyncio.run(main())
    assert [tokens for tokens, _ in first] == [tokens for tokens, _ in second]
    assert len({tuple(tokens) for tokens, _ in first}) == 3
    assert [with_weights for _, with_weights in first + second] == [True, True, False] * 2
    assert again == (first[1][0], False)
