"""Which URLs and which addresses are taken, and that every way around the list is closed."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdserver.configuration.sources import AllowedUrls, is_public, parse_allowed_urls, parse_url
from pdserver.errors import Forbidden, InvalidRequest, PdError
from tests.security.documents import words

ALLOWED = parse_allowed_urls(
    "https://models.example.com/prod/, http://10.0.0.5:9000/, file:///srv/models/, https://a.org/one.pdar,"
    " http://[fd00::1]/m/, http://localhost:8000/, 192.168.0.0/16"
)
TAKEN = [
    "https://models.example.com/prod/a.pdar",
    "https://models.example.com:443/prod/a.pdar",
    "https://MODELS.example.COM/prod/deep/er/a-1.2_b~c.pdar",
    "https://models.example.com/prod/%E6%A8%A1%E5%9E%8B.pdar",
    "https://models.example.com/%70rod/a.pdar",
    "http://10.0.0.5:9000/a.pdar",
    "file:///srv/models/a.pdar",
    "https://a.org/one.pdar",
    "http://[fd00:0:0::1]/m/a.pdar",
    "http://localhost:8000/a.pdar",
]
NOT_TAKEN = [
    "http://models.example.com/prod/a.pdar",
    "https://models.example.com:444/prod/a.pdar",
    "https://models.example.com/prod/",
    "https://models.example.com/prod",
    "https://models.example.com/production/a.pdar",
    "https://models.example.com/other/a.pdar",
    "https://models.example.com/PROD/a.pdar",
    "https://models.example.com.evil.com/prod/a.pdar",
    "https://evil.models.example.com/prod/a.pdar",
    "https://modelsxexample.com/prod/a.pdar",
    "https://example.com/prod/a.pdar",
    "http://10.0.0.5/a.pdar",
    "http://10.0.0.6:9000/a.pdar",
    "https://10.0.0.5:9000/a.pdar",
    "http://192.168.0.1/a.pdar",
    "http://[fd00::2]/m/a.pdar",
    "http://[::ffff:10.0.0.5]:9000/a.pdar",
    "file:///srv/models",
    "file:///srv/modelsevil/a.pdar",
    "file:///etc/passwd",
    "https://a.org/one.pdarx",
    "https://a.org/one.pdar/two.pdar",
    "http://127.0.0.1:8000/a.pdar",
]
MALFORMED = [
    *words("ftp://models.example.com/prod/a gopher://x/ s3://bucket/a.pdar jar:file:///srv/models/a!/b data:,a"),
    *words("http: http:/ http:// http:/a http:a https:///prod/a.pdar http://:9000/a file:// file:a file:/srv/models/a"),
    *words("file://localhost/srv/models/a file://srv/models/a file:///srv/models/../secret file:///srv/models/./a"),
    *words("file:///srv/models//a file:///srv/models/%2e%2e/secret file:///srv/models/%2E%2e/a file:///srv/models/a%2f..%2fb"),
    *words("https://models.example.com/prod/../secret https://models.example.com/prod/%2e%2e/a"),
    *words("https://models.example.com/prod/..%2fa https://models.example.com/prod/%252e%252e/a"),
    *words("https://models.example.com/prod/%5c..%5ca https://models.example.com/prod//a https://models.example.com//prod/a"),
    *words("https://models.example.com/prod/%00a https://models.example.com/prod/%0d%0aHost:x https://models.example.com/prod/%ff"),
    *words("https://models.example.com/prod/a;b https://models.example.com/prod/..;/a https://models.example.com/prod/a|b"),
    *words("https://models.example.com/prod/%zz https://models.example.com/prod/%2 https://models.example.com/prod/a%"),
    *words("https://user@models.example.com/prod/a https://user:pass@models.example.com/prod/a"),
    *words("https://models.example.com@evil.com/prod/a https://evil.com#@models.example.com/prod/a"),
    *words("https://evil.com\\@models.example.com/prod/a https://models.example.com\\prod\\a https:\\\\a.com/a"),
    *words("https://models.example.com/prod/a#b https://models.example.com/prod/a? https://models.example.com/prod/a?b=c"),
    *words("https://models.example.com./prod/a https://.example.com/prod/a https://models..example.com/prod/a"),
    *words("https://-a.com/x https://a-.com/x https://mödels.example.com/prod/a https://models.example.com:/prod/a"),
    *words("https://models.example.com:0/prod/a https://models.example.com:65536/prod/a https://models.example.com:x/prod/a"),
    *words("https://models.example.com:４４３/prod/a http://0x0a.0.0.5:9000/a http://10.5:9000/a http://167772165:9000/a"),
    *words("http://012.0.0.5:9000/a http://10.0.0.05:9000/a http://0xa000005:9000/a http://10.0.0.5.:9000/a"),
    *words("http://10.0.0.256:9000/a http://[::1/a http://::1/a http://[fe80::1%25eth0]/a http://[::g]/a http://[]/a"),
    *words("http://①②⑦.⓪.⓪.①/a HTTPS//models.example.com/prod/a hTTp://10.0.0.5:9000/a https%3A//models.example.com/a"),
    *("https://models.example.com/prod/a b", " https://models.example.com/prod/a",
    "https://models.example.com/prod/a\n"),
    *("https://models.example.com/prod/a\0", "https://models.example.com/prod/\ta",
    "https://models.example\n.com/prod/a"),
    *("https://" + "a" * 64 + ".com/a", "https://" + "a." * 200 + "com/a",
    "https://models.example.com/prod/" + "a" * 3000),
]  # fmt: skip
PRIVATE = words(
    "127.0.0.1 127.255.255.254 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 "
    "192.0.0.1 192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 "
    ":: ::1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:10.0.0.1 ::127.0.0.1 ::10.0.0.1 fe80::1 fc00::1 fec0::1 "
    "ff02::1 2001:db8::1 100::1 2002:7f00:1:: 2002:a9fe:a9fe:: 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe "
    "2001:0:7f00:1::1"
)
PUBLIC = words(
    "8.8.8.8 1.1.1.1 93.184.216.34 2606:4700:4700::1111 2a00:1450:4001:801::200e ::ffff:8.8.8.8 64:ff9b::808:808"
)
BAD_KEYS = [
    *words(".* file://.*|http(s)?://.* https://s3.amazonaws.com/.* ^https://a/ https://a/(b|c)/ https://a/* a.com"),
    *words(
        "https:// https://a?b=c https://u@a/ ftp://a/ file:// file://a/ s3://b/ 10.0.0.0/33 300.0.0.1 10.0.0.1/8 https://a/../"
    ),
]


@pytest.mark.parametrize("url", TAKEN)
def test_what_is_below_a_prefix_is_taken(url: str) -> None:
    assert ALLOWED.check(url).segments[-1]


@pytest.mark.parametrize("url", NOT_TAKEN)
def test_what_is_below_none_is_not(url: str) -> None:
    with pytest.raises(Forbidden, match="not among the URLs that the operator allows"):
        ALLOWED.check(url)


@pytest.mark.parametrize("url", MALFORMED, ids=lambda url: ascii(url)[:40])
def test_what_could_be_read_in_two_ways_is_not_read(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ALLOWED.check(url)
    assert str(caught.value).isprintable()
    assert "pass" not in str(caught.value).replace("passwd", "") or "user:pass" in url


@pytest.mark.parametrize("url", [*TAKEN, *NOT_TAKEN])
def test_without_prefixes_nothing_is_taken(url: str) -> None:
    with pytest.raises(Forbidden, match="from the model store alone"):
        AllowedUrls().check(url)


@pytest.mark.parametrize("text", PRIVATE)
def test_private_addresses(text: str) -> None:
    address = ipaddress.ip_address(text)
    assert not is_public(address)
    named = parse_url("https://models.example.com/prod/a.pdar")
    assert ALLOWED.may_connect(named, address) == (text.startswith("192.168."))


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))
    assert ALLOWED.may_connect(parse_url("https://models.example.com/prod/a.pdar"), ipaddress.ip_address(text))


def test_loopback_has_a_name() -> None:
    url = parse_url("http://localhost:8000/a.pdar")
    assert ALLOWED.may_connect(url, ipaddress.ip_address("127.0.0.1"))
    assert ALLOWED.may_connect(url, ipaddress.ip_address("::1"))
    assert not ALLOWED.may_connect(url, ipaddress.ip_address("10.0.0.1"))


@pytest.mark.parametrize("text", BAD_KEYS)
def test_the_key_takes_no_patterns(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected prefixes such as|host bits|does not appear"):
        parse_allowed_urls(text)


@pytest.mark.parametrize(
    "text", ["10.1.0.0/16", "192.168.0.7", "fd00::/8", "fe80::/10", "::1", "2001:db8::/32", "abcd::1"]
)
def test_the_key_takes_networks(text: str) -> None:
    allowed = parse_allowed_urls(f"https://models.example.com/, {text}")
    assert allowed.networks == (ipaddress.ip_network(text),)
    named = parse_url("https://models.example.com/a.pdar")
    assert allowed.may_connect(named, allowed.networks[0][0])


def test_the_key_may_be_empty() -> None:
    assert parse_allowed_urls(" , ") == AllowedUrls()


def test_a_long_query_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="expected https://host"):
        parse_url("https://host/?" + "//ptBB" * 300 + "\0")


@given(st.text(max_size=40) | st.from_regex(r"https?://[a-z0-9.\[\]:@%/\\?#;]{0,30}"))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    """What is taken says the same when it is written out and read again."""
    try:
        url = parse_url(text)
    except ValueError:
        return
    assert parse_url(str(url)).segments == url.segments


@given(st.text(max_size=30))
def test_no_text_behind_a_prefix_leads_out_of_it(rest: str) -> None:
    try:
        url = ALLOWED.check("file:///srv/models/" + rest)
    except PdError:
        return
    assert url.segments[:2] == ("srv", "models")
    assert not {"", ".", ".."} & set(url.segments)
