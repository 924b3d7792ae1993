"""The service's settings: one frozen object, checked when it is made.

Every field can be set by the environment variable `KEYAHEAD_` plus its name in capitals, or by an explicit value, which wins.
"""

# ruff: noqa: RUF009 - _setting makes a dataclass field.

from __future__ import annotations

import dataclasses
import ipaddress
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from keyahead.engine.contract import MAX_DRAFTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PREFIX: Final = "KEYAHEAD_"

OTHER_VARIABLES: Final = re.compile(
    r"KEYAHEAD_(CACHE|WEIGHTS|ADDRESS|ENGINE_IMAGE_DIGEST"  # set-up, the command line's server, the GPU container
    r"|(\w+_)?PORT"  # ports of what `keyahead up` starts beside the service
    r"|(\w+_)?SERVICE_(HOST|PORT\w*)|(\w+_)?PORT_\d+_\w+)"  # Kubernetes' service links, when the service object is called keyahead
)
"""Variables with our prefix that belong to others; any further one that is not a field is an error, most likely a typing mistake."""

_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}(/[A-Za-z0-9._-]{1,64})?")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_VERSION = re.compile(r"([0-9a-f]{12})?")
_ADDRESSES = re.compile(r"[^\s,]+:\d{1,5}(,[^\s,]+:\d{1,5})*")
_REDIS_URL = re.compile(r"unix://|rediss?(\+(sentinel|cluster))?://")
_MAX_WEIGHT = 1000
_MIN_KEY_BYTES = 16
"""128 bits, so that the cache's keyed digests cannot be searched for by trying keys."""


class ConfigError(ValueError):
    """Settings that cannot be used; one line for each, with the field, its variable and the cure."""


def _setting(default: object, read: Callable[[str], object], check: Callable[[Any], str | None], *, secret: bool = False) -> Any:
    """A field with how to read it from a variable and a check that returns what it must be when it is not."""
    return field(default=default, repr=not secret, metadata={"read": read, "check": check, "secret": secret})


def _between(low: int, high: int) -> Callable[[int], str | None]:
    return lambda value: None if low <= value <= high else f"must be {low} to {high}, not {value}"


def _matches(pattern: re.Pattern[str], meaning: str) -> Callable[[str], str | None]:
    return lambda value: None if pattern.fullmatch(value) else f"must be {meaning}"


def _file(path: Path | None) -> str | None:
    return None if path is None or path.is_file() else f"must name a file that exists; {path} does not"


def _writable(path: Path | None) -> str | None:
    return None if path is None or path.parent.is_dir() else f"must name a file in a folder that exists; {path.parent} does not"


def _folder(path: Path | None) -> str | None:
    return None if path is not None and path.is_dir() else f"must name the converted model's folder, which holds tokenizer.json; got {path}"


def _redis(url: str | None) -> str | None:
    return None if url is None or _REDIS_URL.match(url) else "must begin with redis://, redis+sentinel://, redis+cluster:// or unix://"


def _otlp(url: str | None) -> str | None:
    if url is None or (urlsplit(url).scheme in {"http", "https"} and urlsplit(url).hostname):
        return None
    return "must be http://HOST:PORT, or https:// for TLS"


def _key(key: bytes) -> str | None:
    return None if not key or len(key) >= _MIN_KEY_BYTES else f"must be at least {2 * _MIN_KEY_BYTES} hexadecimal digits"


def _read_weights(text: str) -> tuple[tuple[str, int], ...]:
    pairs = (pair.strip().partition("=") for pair in text.split(","))
    return tuple((tenant, int(weight)) for tenant, _, weight in pairs)


def _weights(weights: tuple[tuple[str, int], ...]) -> str | None:
    wrong = [tenant for tenant, weight in weights if not _TENANT.fullmatch(tenant) or not 1 <= weight <= _MAX_WEIGHT]
    return f"must give every tenant a weight of 1 to {_MAX_WEIGHT}" if wrong else None


def _anything(_: object) -> None:
    return None


def _boolean(text: str) -> bool:
    return {"1": True, "true": True, "0": False, "false": False}[text.lower()]


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """Settings of one service process. Raises ConfigError naming every field that is wrong."""

    grpc_host: str = _setting("127.0.0.1", str, _matches(re.compile(r"\S+"), "an address to listen on, such as 127.0.0.1"))
    """Address that the gRPC and the metrics port listen on."""
    grpc_port: int = _setting(50551, int, _between(0, 65535))
    """0 takes a free one."""
    metrics_port: int = _setting(9464, int, _between(0, 65535))
    """Prometheus' port, over HTTP; 0 takes a free one."""
    triton_address: str = _setting("127.0.0.1:8801", str, _matches(_ADDRESSES, "HOST:PORT of Triton's gRPC port, or several with commas"))
    """A host may be a name with an address for each Triton. All services should be given the same."""
    model_folder: Path | None = _setting(None, Path, _folder)
    """Folder of the converted model with its tokenizer.json. Required."""
    model_name: str = _setting("qwen2.5-coder-0.5b", str, _matches(re.compile(r"\S+"), "a model of the catalogue"))
    model_version: str = _setting("", str, _matches(_VERSION, "the first 12 hexadecimal digits of the weights' SHA-256"))
    """Told to clients and part of the metrics' build info."""
    redis_url: str | None = _setting(None, str, _redis, secret=True)
    """The cache's second tier; none means memory only."""
    cache_key: bytes = _setting(b"", bytes.fromhex, _key, secret=True)
    """Key of the cache's digests. Empty: a random one for each process, which therefore shares nothing through Redis."""
    latency_budget_ms: int = _setting(160, int, _between(1, 30_000))
    """An automatic request is answered within this, whatever its deadline: the promise is 200 ms at the editor (docs/design.md)."""
    reserve_ms: int = _setting(10, int, _between(0, 1000))
    """Kept of a client's deadline for sending the answer."""
    max_deadline_ms: int = _setting(30_000, int, _between(1, 600_000))
    """Longest a call may last, whatever its deadline."""
    single_line_tokens: int = _setting(32, int, _between(1, 256))
    """Tokens decoded at most when the request does not say."""
    block_tokens: int = _setting(96, int, _between(1, 256))
    min_p_accept: float = _setting(0.0, float, lambda value: None if 0 <= value <= 1 else f"must be 0 to 1, not {value}")
    """Suggestions less likely to be taken are withheld; 0 shows all."""
    max_document_bytes: int = _setting(1 << 20, int, _between(1, 1 << 24))
    max_context_bytes: int = _setting(64 << 10, int, _between(0, 1 << 24))
    max_context_files: int = _setting(16, int, _between(0, 256))
    max_in_flight: int = _setting(256, int, _between(1, 100_000))
    """Hard stop: calls beyond it are refused on arrival."""
    engine_places: int = _setting(16, int, _between(4, 4096))
    """Generations at the engine at once, as many as it works on side by side: `max_batch_size` of a GPU engine."""
    max_drafts: int = _setting(MAX_DRAFTS, int, _between(0, MAX_DRAFTS))
    """Drafts sent in one request at most, as many as the engine takes: `--max_draft_len` of a TensorRT engine, 0 for the LLM API."""
    tenant_weights: tuple[tuple[str, int], ...] = _setting((), _read_weights, _weights)
    """Parts of the engine's time, as `tenant=3,other=2`; a tenant that is not named has 1."""
    max_sessions: int = _setting(256, int, _between(1, 100_000))
    """Session streams open at once, each with at most 2 * max_document_bytes of text; those beyond it are refused."""
    event_log: Path | None = _setting(None, Path, _writable)
    """File that what became of each suggestion is appended to, without text; 16 MiB, and as much in its predecessor. None: no log."""
    tls_cert: Path | None = _setting(None, Path, _file)
    """Certificate chain, PEM; with tls_key."""
    tls_key: Path | None = _setting(None, Path, _file)
    tokens_file: Path | None = _setting(None, Path, _file)
    """Who may call: lines `tenant:SHA-256 of the token in hexadecimal` or `tenant/user:…`. None: no tokens, one tenant called `default`."""
    adapters_file: Path | None = _setting(None, Path, _file)
    """Whose requests are decoded with which LoRA adapter: lines `tenant:FOLDER`. None: all with the model as it is (docs/adapters.md)."""
    isolate_users: bool = _setting(False, _boolean, _anything)
    """Keep the users of a tenant apart, too: none of them finds, or can time, what another one has caused to be cached."""
    otlp_endpoint: str | None = _setting(None, str, _otlp)
    """The OpenTelemetry collector's gRPC port, such as http://127.0.0.1:4317; none means no traces."""
    trace_ratio: float = _setting(0.01, float, lambda value: None if 0 <= value <= 1 else f"must be 0 to 1, not {value}")
    """Share of calls traced, of those whose client has not decided by a traceparent of its own."""
    allow_anonymous: bool = _setting(False, _boolean, _anything)
    """Serve without tokens on an address that other machines can reach."""

    def __post_init__(self) -> None:
        wrong = [
            f"{name(each.name)} {problem}"
            for each in dataclasses.fields(self)
            if (problem := each.metadata["check"](getattr(self, each.name))) is not None
        ]
        wrong += [] if wrong else self._contradictions()
        if wrong:
            raise ConfigError("\n".join(wrong))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], **explicit: object) -> ServiceConfig:
        """Settings from variables (an empty one counts as unset); an explicit value that is not None wins. Raises ConfigError."""
        known = {PREFIX + each.name.upper(): each for each in dataclasses.fields(cls)}
        values: dict[str, object] = {}
        wrong = []
        for variable in sorted(each for each, value in environment.items() if each.startswith(PREFIX) and value):
            if variable not in known:
                if not OTHER_VARIABLES.fullmatch(variable):
                    wrong.append(f"{variable} is not a setting of keyahead; correct its name or unset it")
                continue
            setting = known[variable]
            try:
                values[setting.name] = setting.metadata["read"](environment[variable])
            except (ValueError, KeyError):
                wrong.append(f"{name(setting.name)} cannot be read as {_KINDS[setting.metadata['read']]}")
        if wrong:
            raise ConfigError("\n".join(wrong))
        values.update({key: value for key, value in explicit.items() if value is not None})
        return cls(**values)  # type: ignore[arg-type]  # each was read by its own field's reader

    def redacted(self) -> dict[str, str]:
        """Every setting as text, fit for a log: a secret shows only whether it is set."""
        return {
            each.name: ("set" if getattr(self, each.name) else "none") if each.metadata["secret"] else str(getattr(self, each.name))
            for each in dataclasses.fields(self)
        }

    def _contradictions(self) -> list[str]:
        wrong = []
        if (self.tls_cert is None) != (self.tls_key is None):
            wrong.append(f"{name('tls_cert')} and {name('tls_key')} go together; set both or neither")
        elif self.tls_cert is not None and not _is_pair(self.tls_cert, self.tls_key):
            wrong.append(f"{name('tls_cert')} and {name('tls_key')} must be a certificate chain and its key, in PEM and without a password")
        if self.reserve_ms >= self.max_deadline_ms:
            wrong.append(f"{name('reserve_ms')} must be less than {name('max_deadline_ms')}")
        if self.tokens_file is not None:
            try:
                read_tokens(self.tokens_file, by_user=self.isolate_users)
            except ConfigError as error:
                wrong.append(str(error))
        elif self.isolate_users:
            wrong.append(f"{name('isolate_users')} needs {name('tokens_file')}, which says who is who; set both or neither")
        elif not self.allow_anonymous and not _is_loopback(self.grpc_host):
            wrong.append(
                f"{name('grpc_host')} can be reached by other machines, but {name('tokens_file')} is not set; "
                f"set it, or set {name('allow_anonymous')} to 1 to serve everyone"
            )
        return wrong


_KINDS: Final[dict[object, str]] = {
    int: "a whole number",
    float: "a number",
    bytes.fromhex: "hexadecimal digits",
    _boolean: "1 or 0",
    _read_weights: "tenant=3,other=2 with whole numbers",
    str: "text",
    Path: "a path",
}


def name(setting: str) -> str:
    """A field as errors name it: with its variable."""
    return f"{setting} ({PREFIX}{setting.upper()})"


def read_tokens(path: Path, *, by_user: bool = False) -> tuple[tuple[str, bytes], ...]:
    """Who is who: for each line the tenant, or with `by_user` tenant/user, and the token's digest. Raises ConfigError naming the line.

    Blank lines and `#` comments are skipped.
    """
    tokens: dict[bytes, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        owner, _, digest = line.strip().partition(":")
        if not _TENANT.fullmatch(owner) or not _SHA256.fullmatch(digest):
            raise ConfigError(
                f"{name('tokens_file')} line {number} must be tenant:SHA256 or tenant/user:SHA256, "
                "names of [A-Za-z0-9._-] and 64 hexadecimal digits"
            )
        if by_user and "/" not in owner:
            raise ConfigError(
                f"{name('tokens_file')} line {number} names no user; make it tenant/user:SHA256, or unset {name('isolate_users')}"
            )
        if tokens.setdefault(bytes.fromhex(digest), owner) != owner:
            raise ConfigError(
                f"{name('tokens_file')} line {number} gives a token of an earlier line to somebody else; remove one of the lines"
            )
    if not tokens:
        raise ConfigError(f"{name('tokens_file')} has no token; add a line tenant:SHA256")
    return tuple((owner if by_user else owner.partition("/")[0], digest) for digest, owner in tokens.items())


def _is_pair(certificate: Path, key: Path | None) -> bool:
    try:
        # An empty password, or OpenSSL would ask for one on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError):
        return False
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
