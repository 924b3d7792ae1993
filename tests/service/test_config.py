"""Settings are read from variables and explicit values, checked at once, and printed without secrets."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from keyahead.service.config import ConfigError, ServiceConfig, read_tokens

DIGEST = "ab" * 32


def make(tmp_path: Path, **values: Any) -> ServiceConfig:
    """A valid configuration with some fields changed."""
    return ServiceConfig(**{"model_folder": tmp_path, **values})


def test_variables_set_fields_and_explicit_values_win(tmp_path: Path) -> None:
    """Each kind of field is read; an explicit None counts as not given; an empty variable counts as unset."""
    environment = {
        "KEYAHEAD_MODEL_FOLDER": str(tmp_path),
        "KEYAHEAD_GRPC_PORT": "1234",
        "KEYAHEAD_METRICS_PORT": "1235",
        "KEYAHEAD_CACHE_KEY": "00" * 16,
        "KEYAHEAD_ALLOW_ANONYMOUS": "true",
        "KEYAHEAD_REDIS_URL": "",
        "HOME": "elsewhere",
    }
    config = ServiceConfig.from_environment(environment, grpc_port=99, metrics_port=None)
    assert (config.grpc_port, config.metrics_port, config.cache_key, config.allow_anonymous) == (99, 1235, bytes(16), True)
    assert config.model_folder == tmp_path
    assert config.redis_url is None


def test_an_unknown_variable_of_ours_is_an_error_that_names_it(tmp_path: Path) -> None:
    """A typing mistake must not silently leave a default in force."""
    with pytest.raises(ConfigError, match="KEYAHEAD_LATENCY_BUGDET_MS"):
        ServiceConfig.from_environment({"KEYAHEAD_LATENCY_BUGDET_MS": "100"}, model_folder=tmp_path)


@pytest.mark.parametrize(
    "variable",
    [
        "KEYAHEAD_CACHE",
        "KEYAHEAD_WEIGHTS",
        "KEYAHEAD_ADDRESS",
        "KEYAHEAD_TRITON_PORT",
        "KEYAHEAD_REDIS_PORT",
        "KEYAHEAD_PORT",
        "KEYAHEAD_SERVICE_HOST",
        "KEYAHEAD_SERVICE_PORT_GRPC",
        "KEYAHEAD_PORT_50551_TCP_ADDR",
    ],
)
def test_variables_of_other_parts_are_let_be(variable: str, tmp_path: Path) -> None:
    """Set-up, the supervisor and Kubernetes' service links share the prefix."""
    assert ServiceConfig.from_environment({variable: "tcp://10.0.0.1:1"}, model_folder=tmp_path) == make(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("grpc_port", 65536),
        ("metrics_port", -1),
        ("triton_address", "no-port"),
        ("triton_address", "host:1,no-port"),
        ("model_folder", None),
        ("model_folder", Path("missing")),
        ("model_version", "xyz"),
        ("redis_url", "http://host"),
        ("redis_url", "redis+other://host"),
        ("cache_key", b"short"),
        ("latency_budget_ms", 0),
        ("reserve_ms", 1001),
        ("max_deadline_ms", 0),
        ("single_line_tokens", 257),
        ("block_tokens", 0),
        ("max_document_bytes", 0),
        ("max_context_bytes", -1),
        ("max_context_files", 257),
        ("max_in_flight", 0),
        ("tls_cert", Path("missing.pem")),
        ("tls_key", Path("missing.pem")),
        ("tokens_file", Path("missing")),
        ("event_log", Path("missing/events")),
        ("max_sessions", 0),
        ("grpc_host", ""),
        ("model_name", ""),
    ],
)
def test_a_bad_value_names_its_field_and_variable(name: str, value: object, tmp_path: Path) -> None:
    """Whoever set it, by flag or variable, finds it in the message."""
    with pytest.raises(ConfigError, match=rf"{name} \(KEYAHEAD_{name.upper()}\) must"):
        make(tmp_path, **{name: value})


@pytest.mark.parametrize(
    ("variable", "value"), [("KEYAHEAD_GRPC_PORT", "http"), ("KEYAHEAD_CACHE_KEY", "xyz"), ("KEYAHEAD_ALLOW_ANONYMOUS", "maybe")]
)
def test_an_unreadable_variable_is_named_without_its_value(variable: str, value: str, tmp_path: Path) -> None:
    """It may be a secret in the wrong place."""
    with pytest.raises(ConfigError, match=variable) as caught:
        ServiceConfig.from_environment({variable: value}, model_folder=tmp_path)
    assert value not in str(caught.value)


def test_every_wrong_field_is_reported_at_once(tmp_path: Path) -> None:
    """One start is enough to learn of all mistakes."""
    with pytest.raises(ConfigError, match=r"(?s)grpc_port.*block_tokens"):
        make(tmp_path, grpc_port=-1, block_tokens=0)


def test_other_machines_are_served_only_with_tokens_or_by_word(tmp_path: Path) -> None:
    """Without tokens the service listens on loopback, unless the operator says otherwise."""
    with pytest.raises(ConfigError, match="KEYAHEAD_TOKENS_FILE"):
        make(tmp_path, grpc_host="0.0.0.0")
    (tmp_path / "tokens").write_text(f"acme:{DIGEST}\n")
    make(tmp_path, grpc_host="0.0.0.0", tokens_file=tmp_path / "tokens")
    make(tmp_path, grpc_host="0.0.0.0", allow_anonymous=True)
    for host in ("127.0.0.1", "::1", "[::1]", "localhost"):
        make(tmp_path, grpc_host=host)


def test_a_certificate_needs_its_key(tmp_path: Path) -> None:
    """Half of a pair would silently mean no TLS."""
    (tmp_path / "cert.pem").write_text("x")
    with pytest.raises(ConfigError, match="go together"):
        make(tmp_path, tls_cert=tmp_path / "cert.pem")


def test_what_is_no_certificate_is_refused_before_grpc_sees_it(tmp_path: Path) -> None:
    """By itself, grpc would only say that it cannot listen."""
    for file in ("cert.pem", "key.pem"):
        (tmp_path / file).write_text("nonsense")
    with pytest.raises(ConfigError, match="in PEM"):
        make(tmp_path, tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem")


def test_a_reserve_leaves_time_to_answer(tmp_path: Path) -> None:
    """A reserve as long as the longest call would refuse everything."""
    with pytest.raises(ConfigError, match="reserve_ms"):
        make(tmp_path, reserve_ms=10, max_deadline_ms=10)


def test_tokens_are_read_with_comments_and_several_for_a_tenant(tmp_path: Path) -> None:
    """Rotation needs two tokens of one tenant."""
    file = tmp_path / "tokens"
    file.write_text(f"# people\n\nacme:{DIGEST}\nacme:{'CD' * 32}\nbeta:{'ef' * 32}\n")
    assert read_tokens(file) == (("acme", b"\xab" * 32), ("acme", b"\xcd" * 32), ("beta", b"\xef" * 32))


def test_users_are_told_apart_only_where_they_are_isolated(tmp_path: Path) -> None:
    """The same file gives tenants, or tenants with their users."""
    file = tmp_path / "tokens"
    file.write_text(f"acme/ann:{DIGEST}\nacme/bob:{'CD' * 32}\n")
    assert [owner for owner, _ in read_tokens(file)] == ["acme", "acme"]
    assert [owner for owner, _ in read_tokens(file, by_user=True)] == ["acme/ann", "acme/bob"]
    assert make(tmp_path, tokens_file=file, isolate_users=True).isolate_users


def test_isolated_users_need_names(tmp_path: Path) -> None:
    """Whoever asks for isolation and names no user would not get it; that is said at the start."""
    file = tmp_path / "tokens"
    file.write_text(f"acme/ann:{DIGEST}\nacme:{'CD' * 32}\n")
    with pytest.raises(ConfigError, match=r"line 2 names no user"):
        make(tmp_path, tokens_file=file, isolate_users=True)
    with pytest.raises(ConfigError, match="isolate_users"):
        make(tmp_path, isolate_users=True)


@pytest.mark.parametrize(
    "line",
    [
        "acme",
        "acme:xyz",
        f":{DIGEST}",
        f"a b:{DIGEST}",
        f"acme/:{DIGEST}",
        f"/ann:{DIGEST}",
        f"a/b/c:{DIGEST}",
        f"one:{DIGEST}\ntwo:{DIGEST}",
        f"a/one:{DIGEST}\na/two:{DIGEST}",
    ],
)
def test_a_bad_token_line_is_named_by_number_and_not_quoted(line: str, tmp_path: Path) -> None:
    """It may hold the token itself by mistake. One token cannot be two tenants'."""
    file = tmp_path / "tokens"
    file.write_text(f"# first\n{line}\n")
    with pytest.raises(ConfigError, match=r"line [23]") as caught:
        make(tmp_path, tokens_file=file)
    assert DIGEST not in str(caught.value)


def test_a_tokens_file_without_tokens_is_refused(tmp_path: Path) -> None:
    """It would lock everybody out."""
    (tmp_path / "tokens").write_text("# none yet\n")
    with pytest.raises(ConfigError, match="has no token"):
        make(tmp_path, tokens_file=tmp_path / "tokens")


def test_secrets_are_neither_printed_nor_shown(tmp_path: Path) -> None:
    """The redacted settings name every field; secrets say only that they are set, and repr leaves them out."""
    config = make(tmp_path, redis_url="redis://:hunter2@host", cache_key=b"hunter2-hunter2-hunter2")
    shown = config.redacted()
    assert set(shown) == {each.name for each in dataclasses.fields(config)}
    assert (shown["redis_url"], shown["cache_key"], make(tmp_path).redacted()["redis_url"]) == ("set", "set", "none")
    assert "hunter2" not in f"{shown} {config!r}"
