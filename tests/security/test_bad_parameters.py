"""Names, numbers and switches that the management API and the inference port's URLs must not take."""

from __future__ import annotations

import json
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdarchiver.manifest import check_name
from tests.security.documents import words
from tests.security.victim import Victim

JSON = {"Content-Type": "application/json"}
NUMBERS = [
    *words(
        "x 1x 0x10 1e3 1_000 １ ٣ 1.5.5 -- NaN nan inf Infinity -Infinity 99999999999999999999 -99999999999999999999"
    ),
    *("1" * 400, "1,000", "1;2", "1\n2", "\0", "one", "true", "[1]", "{}", " ", "%", "+", "1e400", "½", "²"),
]
WHOLE = ("batch_size", "initial_workers")
MORE = {
    "batch_size": ["0", "-1", "1.5", "4097", "1000000000"],
    "initial_workers": ["-2", "1.5", "1025", "1000000"],
    "max_batch_delay": ["-1", "3600001"],
    "response_timeout": ["-1", "0", "31536001"],
    "startup_timeout": ["-1", "0", "31536001"],
    "synchronous": ["yes", "1", "0", "truth", "", "tru", "false ", "null"],
    "runtime": ["LSP", "java", "python2", "python4", "../python"],
    "s3_sse_kms": ["true", "maybe"],
    "sha256": ["x", "0" * 63, "0" * 65, "g" * 64, "sha256:" + "0" * 64, "０" * 64, "0" * 63 + "\n"],
}
REGISTER = [
    *(
        (name, value)
        for name in (*WHOLE, "max_batch_delay", "response_timeout", "startup_timeout")
        for value in NUMBERS
    ),
    *((name, value) for name, values in MORE.items() for value in values),
]
SCALE = [
    *((name, value) for name in ("min_worker", "max_worker") for value in [*NUMBERS, "-1", "1.5", "1025", "1000000"]),
    ("synchronous", "maybe"),
    ("batch_size", "0"),
    ("worker", "1"),
    ("min_workers", "1"),
    ("MIN_WORKER", "1"),
]
NAMES = [
    *words(
        "../etc a/../b model/.. .. . .hidden -a _a a/b a\\b /etc/passwd //x a:b a;b a|b a&b a$b $(id) `id` a'b a\"b a<b"
    ),
    *(
        "*",
        "?",
        "a?b",
        "a b",
        " a",
        "a ",
        "a\tb",
        "a\nb",
        "a\r\nSet-Cookie: b=c",
        "a\0b",
        "\0",
        "\x7f",
        "\u202e",
        "模型",
    ),
    *(
        "é",
        "e\u0301",
        "a" * 129,
        "a" * 256,
        "a" * 5000,
        "%00",
        "%2e%2e",
        "..%2f",
        "{a}",
        "[a]",
        "a#b",
        "~a",
        "a,b",
        "a=b",
    ),
    *("a@b", "a+b", "a!b", "a^b", "(a)", "\x1b[31m", "𝕒", "ａ", "Ⅳ", "١", "\ufeffa", "a\u200b", "a\u2028b"),
]
URLS = [
    *words(
        "../chaos.pdar ../../etc/passwd /etc/passwd ./fit.pdar .. . .hidden.pdar sub/fit.pdar ..\\fit.pdar \\\\host\\x"
    ),
    *(
        "//host/x.pdar",
        "fit.pdar/",
        "fit.pdar\0",
        "fit.pdar\n",
        "fit\r\n.pdar",
        "~/fit.pdar",
        "a" * 256,
        "\x1b[31m.pdar",
    ),
]


def register(**given: str) -> str:
    return "/models?" + urlencode({"url": "fit.pdar", "model_name": "again", **given})


@pytest.mark.parametrize(("name", "value"), REGISTER, ids=lambda value: ascii(value)[:24])
def test_registering(victim: Victim, name: str, value: str) -> None:
    victim.refuses(400, name, "POST", register(**{name: value}), port="management")
    victim.refuses(400, name, "POST", "/models", as_json(name, value), JSON, port="management")


def as_json(name: str, value: str) -> bytes:
    return json.dumps({"url": "fit.pdar", "model_name": "again", name: value}).encode()


@pytest.mark.parametrize(("name", "value"), SCALE, ids=lambda value: ascii(value)[:24])
def test_scaling(victim: Victim, name: str, value: str) -> None:
    victim.refuses(400, name, "PUT", "/models/fit?" + urlencode({name: value}), port="management")


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:24])
def test_model_names(victim: Victim, name: str) -> None:
    with pytest.raises(ValueError, match="must start with"):
        check_name(name)
    victim.refuses(400, "model name", "POST", register(model_name=name), port="management")
    target = quote(name, safe="")
    if name not in (".", ".."):
        victim.refuses(404, "Model not found", "POST", f"/predictions/{target}")
        for method in ("GET", "PUT", "DELETE"):
            answer = victim.ask(method, f"/models/{target}", port="management")
            assert answer.status == 404, answer
            assert answer.message
        victim.refuses(404, "version", "POST", f"/predictions/fit/{target}")


@pytest.mark.parametrize("url", URLS, ids=lambda url: ascii(url)[:24])
def test_file_names(victim: Victim, url: str) -> None:
    victim.refuses(400, "expected the name of a file in the model store", "POST", register(url=url), port="management")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("url=fit.pdar&url=parts.pdar", "url is given twice"),
        ("url=fit.pdar&batch_size=1&batch_size=2", "batch_size is given twice"),
        ("url=fit.pdar&batchsize=1", "did you mean batch_size"),
        ("url=fit.pdar&=1", "unknown parameter"),
        ("url=fit.pdar&%00=1", "unknown parameter"),
        ("url=fit.pdar&" + "a" * 3000 + "=1", "unknown parameter"),
        ("Url=fit.pdar", "unknown parameter"),
        ("", "url is required"),
        ("url=", "url is required"),
        ("model_name=a", "url is required"),
    ],
    ids=lambda text: text[:24],
)
def test_queries(victim: Victim, query: str, words: str) -> None:
    victim.refuses(400, words, "POST", f"/models?{query}", port="management")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("[]", "not a JSON object"),
        ('"fit.pdar"', "not a JSON object"),
        ("null", "not a JSON object"),
        ("1", "not a JSON object"),
        ("{}", "url is required"),
        ('{"url": null}', "url is required"),
        ('{"url": ["fit.pdar"]}', "url: expected a single value"),
        ('{"url": {"a": 1}}', "url: expected a single value"),
        ('{"url": 1}', "not in the model store"),
        ('{"url": "fit.pdar", "batch_size": 1.5}', "batch_size=1.5"),
        ('{"url": "fit.pdar", "batch_size": true}', "batch_size=true"),
        ('{"url": "fit.pdar", "batch_size": 1e400}', "not JSON"),
        ('{"url": "fit.pdar", "batch_size": 123456789012345678901234567890}', "batch_size="),
        ('{"url": "fit.pdar", "initial_workers": -5}', "initial_workers=-5"),
        ('{"url": "fit.pdar", "synchronous": "maybe"}', "expected true or false"),
        ('{"url": "fit.pdar", "nonsense": 1}', "unknown parameter nonsense"),
    ],
)
def test_json_parameters(victim: Victim, body: str, words: str) -> None:
    status = 404 if words.startswith("not in") else 400
    victim.refuses(status, words, "POST", "/models", body.encode(), JSON, port="management")


def test_parameters_in_two_places(victim: Victim) -> None:
    body = b'{"url": "fit.pdar"}'
    victim.refuses(400, "url is given twice", "POST", "/models?url=fit.pdar", body, JSON, port="management")


def test_a_body_that_is_too_large(victim: Victim) -> None:
    body = b'{"url": "' + b"a" * 1_100_000 + b'"}'
    answer = victim.ask("POST", "/models", body, JSON, port="management")
    assert answer.status == 413
    assert "larger than 1,048,576 bytes" in answer.message


@pytest.mark.parametrize("limit", NUMBERS)
def test_paging(victim: Victim, limit: str) -> None:
    victim.refuses(400, "limit", "GET", "/models?" + urlencode({"limit": limit}), port="management")


@given(st.text(max_size=140))
def test_a_name_is_one_segment_of_a_path_and_of_a_url(name: str) -> None:
    try:
        check_name(name)
    except ValueError:
        return
    assert quote(name, safe="") == name
    assert name not in ("", ".", "..")
    assert len(name) <= 128
