"""What a store may be opened on, and how anything else is refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio

from txstate import Store
from txstate._target import PRIVATE, Target, target_of
from txstate.errors import UsageError

if TYPE_CHECKING:
    import os


def opened(
    target: Any = PRIVATE, client: Any = None, fsync: Any = "everysec", *, asynchronous: bool = False
) -> Target:
    return target_of(target, client, fsync, asynchronous=asynchronous)


def test_the_default_is_a_private_server() -> None:
    target = opened()
    assert target.embedded
    assert target.folder is None


@pytest.mark.parametrize("folder", ["state", "state/", "./state", Path("state"), "a:b", "redis"])
def test_anything_without_a_scheme_is_a_folder_made_absolute(
    folder: str | os.PathLike[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target = opened(folder, fsync="always")
    assert target.embedded
    assert target.folder == str(tmp_path / folder)
    assert target.fsync == "always"


def test_a_path_object_is_a_folder_whatever_it_looks_like(tmp_path: Path) -> None:
    assert opened(tmp_path / "host:6379").folder == str(tmp_path / "host:6379")
    assert opened(Path("host:6379")).folder is not None


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:6379/0",
        "valkey://127.0.0.1:6379/0",
        "rediss://127.0.0.1:6379/0",
        "valkeys://127.0.0.1:6379",
        "unix:///tmp/x.sock?db=2",
    ],
)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_addresses(url: str, *, asynchronous: bool) -> None:
    target = opened(url, asynchronous=asynchronous)
    assert (target.url, target.embedded) == (url, False)
    source = target.connections(None, asynchronous=asynchronous)
    assert source.asynchronous == asynchronous


@pytest.mark.parametrize("target", [None, "", b"redis://x", 5, True, []])
def test_nothing_is_refused_so_that_no_worker_gets_a_database_of_its_own(target: Any) -> None:
    with pytest.raises(UsageError, match="environment variable missing"):
        opened(target)


@pytest.mark.parametrize(
    "target", ["localhost:6379", "127.0.0.1:6379", "my-host.example.org:7000/2", "[::1]:6379"]
)
def test_an_address_without_a_scheme_is_refused_with_the_right_one(target: str) -> None:
    with pytest.raises(UsageError, match="redis://"):
        opened(target)


@pytest.mark.parametrize(
    "target",
    [
        "http://x",
        "postgres://x",
        "://x",
        "REDIS//://x",
        "redis://host:port",
        "redis://host/zero",
        "redis://host/1/2",
        "rediss://host:6379/-1",
        "redis+cluster://host:7000/one",
    ],
)
def test_what_redis_py_would_not_take_is_refused_at_once(target: str) -> None:
    with pytest.raises(UsageError):
        opened(target)


def test_several_hosts_are_those_of_a_cluster_or_of_sentinels() -> None:
    with pytest.raises(UsageError, match=r"write rediss\+cluster://.*rediss\+sentinel://"):
        opened("rediss://user:a,b@h1:7000,h2:7000/0")
    assert opened("redis://user:a,b@h1:7000/0").url is not None


def test_a_client_s_settings_are_taken_over_but_not_its_retries() -> None:
    client = redis.Redis(host="example.org", port=7, db=3, username="u", password="p", socket_timeout=77)  # noqa: S106 - no secret
    source = opened(client=client).connections(None, asynchronous=False)
    connection = source.connection(2.0)
    assert (connection.host, connection.port, connection.db) == ("example.org", 7, 3)
    assert (connection.socket_timeout, connection.retry.get_retries()) == (2.0, 0)
    assert source.url() == "redis://u:p@example.org:7/3"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_client_of_the_other_twin_is_refused(*, asynchronous: bool) -> None:
    client = redis.Redis() if asynchronous else redis.asyncio.Redis()
    with pytest.raises(UsageError, match="client= takes a redis"):
        opened(client=client, asynchronous=asynchronous)
    with pytest.raises(UsageError, match="client= takes a redis"):
        opened(client=object(), asynchronous=asynchronous)


def test_a_target_and_a_client_at_once_are_refused() -> None:
    with pytest.raises(UsageError, match="not both"):
        opened("redis://localhost", redis.Redis())


@pytest.mark.parametrize("fsync", ["no", None, "ALWAYS"])
def test_an_unknown_fsync_is_refused(fsync: Any) -> None:
    with pytest.raises(UsageError, match="'everysec' or 'always'"):
        opened(fsync=fsync)


def test_an_fsync_that_is_not_ours_to_set_is_refused() -> None:
    for target, client in ((PRIVATE, None), ("redis://localhost", None), (PRIVATE, redis.Redis())):
        with pytest.raises(UsageError, match=r"durability=Fsync\(\)"):
            opened(target, client, "always")


# Sentinel


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("url", "secure", "again"),
    [
        ("redis+sentinel://h1:1,h2:2/mymaster/3", False, "redis+sentinel://h1:1,h2:2/mymaster/3"),
        ("valkey+sentinel://u:p%40@h1/my%2Fone", False, "redis+sentinel://u:p%40@h1:26379/my%2Fone/0"),
        ("rediss+sentinel://[::1]:5/m", True, "rediss+sentinel://[::1]:5/m/0"),
        (
            "valkeys+sentinel://:p@h/m/0?sentinel_username=s&sentinel_password=q%26",
            True,
            "rediss+sentinel://:p@h:26379/m/0?sentinel_username=s&sentinel_password=q%26",
        ),
    ],
)
def test_addresses_of_sentinels(*, asynchronous: bool, url: str, secure: bool, again: str) -> None:
    source = opened(url, asynchronous=asynchronous).connections(None, asynchronous=asynchronous)
    assert source.url() == again
    assert (
        isinstance(source.connection(1.0), redis.connection.SSLConnection | redis.asyncio.SSLConnection)
        == secure
    )


def test_what_a_sentinel_is_asked_with_is_its_own() -> None:
    url = "rediss+sentinel://u:p@h:5/m/2?sentinel_password=q&ssl_cert_reqs=none&socket_keepalive=yes"
    source: Any = opened(url).connections(None, asynchronous=False)
    assert source.asking == {"password": "q", "ssl": True, "ssl_cert_reqs": "none"}
    connection = source.connection(2.0)
    assert (connection.username, connection.password, connection.db) == ("u", "p", 2)
    assert (connection.socket_timeout, connection.retry.get_retries()) == (1.0, 0)


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://h:5",
        "redis+sentinel://h:5/",
        "redis+sentinel://h:5/m/x",
        "redis+sentinel://h:x/m",
        "redis+sentinel:///m",
        "redis+sentinel://h:5,/m",
        "unix+sentinel://h/m",
        "redis+sentinels://h/m",
    ],
)
def test_an_address_of_sentinels_that_leads_nowhere_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        opened(url)


def test_passwords_in_the_options_of_an_address_are_in_no_repr() -> None:
    with Store("redis+sentinel://u:secret@h/m?sentinel_password=secret") as store:
        assert "secret" not in repr(store)
        assert "sentinel://h/m" in repr(store)
