"""Addresses of Redis: what they mean and how they fail."""

from __future__ import annotations

import pytest

from keyahead.cache.redis_connect import connect


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "url",
    [
        "redis://host",
        "redis://user:secret@host:6380/2",
        "rediss://host/0?ssl_ca_certs=/etc/ca.pem",
        "unix:///run/redis.sock",
        "redis+sentinel://host/main",
        "redis+sentinel://user:secret@one,two:26380,[::1]:26379/main/3",
        "rediss+sentinel://one/main?ssl_ca_certs=/etc/ca.pem",
        "redis+cluster://user:secret@one:7000,two",
        "rediss+cluster://one,two?ssl_ca_certs=/etc/ca.pem",
    ],
)
async def test_good_addresses_make_a_link_without_connecting(url: str) -> None:
    """Nothing needs to be there yet."""
    await connect(url, 0.05, 4).aclose()


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@host",
        "host:6379",
        "redis://user:hunter2/@host:port",
        "redis+sentinel://user:hunter2@host:26379",
        "redis+sentinel://host/main/hunter2",
        "redis+cluster://user:hunter2@",
        "redis+cluster://user:hunter2@host:port",
        "redis+cluster://user:hunter2@host/1",
        "redis+other://user:hunter2@host",
        "unix+cluster://user:hunter2@host",
    ],
)
def test_bad_addresses_are_refused_without_quoting_them(url: str) -> None:
    """The error names the setting and the forms there are, and shows no password."""
    with pytest.raises(ValueError, match=r"cache redis url: it must be redis://") as error:
        connect(url, 0.05, 4)
    assert "hunter2" not in str(error.value)
    assert error.value.__suppress_context__ or error.value.__context__ is None
