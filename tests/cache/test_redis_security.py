"""Redis with few rights and with TLS, as SECURITY.md says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from keyahead.cache import Entry
from tests.cache.lookups import BUDGET_S, SCOPE, only_redis, text_at, until_found
from tests.cache.servers import Cluster, RedisServer, free_port, settings

if TYPE_CHECKING:
    from tests.cache.conftest import Recorder

SECURITY = Path(__file__).parents[2] / "SECURITY.md"
ACL_LINES = [line.replace("PASSWORD", "secret").split() for line in re.findall(r"^ACL SETUSER .*", SECURITY.read_text(), re.MULTILINE)]


async def serves(url: str, events: Recorder) -> None:
    """Everything the cache does works: it stores, finds, and deletes what is bad."""
    cache = only_redis(settings(url), events)
    cache.store(SCOPE, "a = ", "", Entry("1", "stop", 1, ()))
    assert await until_found(cache, "a = ") == "1"
    await cache.aclose()
    assert not {"read error", "write error"} & set(events.counts)


def without(line: list[str], right: str) -> list[str]:
    return [word for word in line if word != right]


@pytest.mark.asyncio
async def test_the_documented_rights_are_enough_and_used(redis_server: RedisServer, events: Recorder) -> None:
    """With them the cache does all its work, the deletion of bad values included, and uses them all."""
    line = ACL_LINES[0]
    url = f"redis://keyahead:secret@127.0.0.1:{redis_server.port}"
    redis_server.admin.execute_command(*line)
    await serves(url, events)
    (name,) = redis_server.admin.keys("*")
    redis_server.admin.execute_command("LSET", name, 0, b"garbage")
    cache = only_redis(settings(url), events)
    assert await text_at(cache, "a = ") is None
    await cache.aclose()
    assert redis_server.admin.exists(name) == 0
    assert "write error" not in events.counts
    used = {entry.removeprefix("cmdstat_") for entry in redis_server.admin.info("commandstats")}
    assert {word.removeprefix("+") for word in line if word.startswith("+")} <= used


@pytest.mark.asyncio
@pytest.mark.parametrize("right", [word for word in ACL_LINES[0] if word.startswith("+")])
async def test_a_missing_right_is_a_miss_and_no_failure(right: str, redis_server: RedisServer, events: Recorder) -> None:
    """Refused commands neither raise nor stop the service; they are counted, but for that of deleting, which did not come up."""
    redis_server.admin.execute_command(*without(ACL_LINES[0], right))
    cache = only_redis(settings(f"redis://keyahead:secret@127.0.0.1:{redis_server.port}"), events)
    cache.store(SCOPE, "a = ", "", Entry("1", "stop", 1, ()))
    await text_at(cache, "a = ")
    await cache.aclose()
    assert bool(events.counts["read error"] + events.counts["write error"]) is (right != "+del")


@pytest.mark.asyncio
async def test_the_documented_rights_are_enough_in_a_cluster(cluster: Cluster, events: Recorder) -> None:
    """The second line, on every node."""
    for node in cluster.nodes:
        node.admin.execute_command(*ACL_LINES[1])
    await serves(cluster.url.replace("://", "://keyahead:secret@"), events)


class Certificates:
    """An authority, and the server's and the client's certificates by it, as files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        authority = trustme.CA()
        pair = authority.issue_cert("127.0.0.1")
        self.authority, self.certificate, self.key = (folder / name for name in ("ca.pem", "cert.pem", "key.pem"))
        authority.cert_pem.write_to_path(self.authority)
        pair.cert_chain_pems[0].write_to_path(self.certificate)
        pair.private_key_pem.write_to_path(self.key)

    def for_server(self) -> dict[str, object]:
        return {
            "tls_ca_cert_file": self.authority,
            "tls_cert_file": self.certificate,
            "tls_key_file": self.key,
            "tls_auth_clients": "yes",
        }

    def for_client(self) -> str:
        return f"ssl_ca_certs={self.authority}&ssl_certfile={self.certificate}&ssl_keyfile={self.key}"


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """A fresh set."""
    return Certificates(tmp_path / "certificates")


@pytest.fixture
def tls_port(tmp_path: Path, certificates: Certificates) -> Iterator[int]:
    """A server's port for clients with certificates."""
    port = free_port()
    server = RedisServer(tmp_path / "redis", tls_port=port, **certificates.for_server())
    yield port
    server.close()


@pytest.mark.asyncio
async def test_tls_with_certificates_on_both_sides(tls_port: int, certificates: Certificates, events: Recorder) -> None:
    """The address names the files."""
    await serves(f"rediss://127.0.0.1:{tls_port}?{certificates.for_client()}", events)


@pytest.mark.asyncio
@pytest.mark.parametrize("trap", ["another authority", "another name", "no certificate"])
async def test_what_tls_must_refuse_is_a_miss(
    trap: str, tls_port: int, certificates: Certificates, tmp_path: Path, events: Recorder
) -> None:
    """A server that cannot prove who it is, is told nothing; nor does a server talk to a service without a certificate."""
    query, host = certificates.for_client(), "127.0.0.1"
    if trap == "another authority":
        query = query.replace(str(certificates.authority), str(Certificates(tmp_path / "others").authority))
    elif trap == "another name":
        host = "127.0.0.2"
    else:
        query = f"ssl_ca_certs={certificates.authority}"
    cache = only_redis(settings(f"rediss://{host}:{tls_port}?{query}", 2.0, 1.0), events)
    assert await text_at(cache, "a = ", BUDGET_S) is None
    await cache.aclose()
    assert events.counts["read error"] == 1


@pytest.mark.asyncio
async def test_a_cluster_with_tls(tmp_path: Path, certificates: Certificates, events: Recorder) -> None:
    """All nodes, and the map they give, are reached by TLS."""
    ports = [free_port() for _ in range(3)]
    cluster = Cluster(tmp_path, [{"tls_port": port, "tls_cluster": "yes", **certificates.for_server()} for port in ports])
    try:
        await serves(f"rediss+cluster://127.0.0.1:{ports[0]}?{certificates.for_client()}", events)
    finally:
        cluster.close()
