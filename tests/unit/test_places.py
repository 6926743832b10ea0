"""The URL of Valkey: one server, a cluster, or Sentinels."""

import pytest

from penstock.store.places import Host, UrlError, parse


def test_one_server() -> None:
    assert parse("valkeys://u:p@h:1/2?ssl_cert_reqs=none").url == "rediss://u:p@h:1/2?ssl_cert_reqs=none"
    assert parse("unix:///run/valkey").kind == "server"


def test_a_cluster() -> None:
    place = parse("rediss+cluster://user:p%40ss@a,b:7000, [::1]:7001/0?ssl_ca_certs=%2Fca.pem")
    assert place.hosts == (Host("a", 6379), Host("b", 7000), Host("::1", 7001))
    assert place.url_of(Host("c", 7002)) == "rediss://user:p%40ss@c:7002/0?ssl_ca_certs=%2Fca.pem"
    assert place.url_of(Host("::1", 1)) == "rediss://user:p%40ss@[::1]:1/0?ssl_ca_certs=%2Fca.pem"


def test_sentinels() -> None:
    place = parse("valkey+sentinel://:secret@a,b:7000/main/2?sentinel_password=x&sentinel_username=y")
    assert (place.kind, place.group) == ("sentinel", "main")
    assert place.hosts == (Host("a", 26379), Host("b", 7000))
    assert place.url_of(Host("c", 6379)) == "redis://:secret@c:6379/2"
    assert dict(place.sentinel_login) == {"username": "y", "password": "x"}


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("http://a:1", "must begin with redis://"),
        ("redis+cluster://", "must read redis+cluster://host"),
        ("redis+cluster://:hunter2@a:x", "must read redis+cluster://host"),
        ("redis+cluster://:hunter2@a:1,", "must read redis+cluster://host"),
        ("redis+cluster://:hunter2@a:1/3", "database 0 only"),
        ("redis+sentinel://:hunter2@a:1", "lacks the name of the primary"),
        ("redis+sentinel://:hunter2@a:1/main/x", "must be a number"),
    ],
)
def test_a_wrong_one_is_refused_with_what_to_do(url: str, advice: str) -> None:
    with pytest.raises(UrlError, match=advice.replace("+", r"\+")) as refusal:
        parse(url)
    assert "hunter2" not in str(refusal.value)
