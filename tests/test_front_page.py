"""What somebody finds who only knows a port's address: a browser a page with links, others that the server is alive."""

from __future__ import annotations

import re

import pytest
import requests

from tests.conftest import Lent

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


def get(url: str, accept: str = "*/*", **headers: str) -> requests.Response:
    return requests.get(url, headers={"Accept": accept, **headers}, timeout=60, allow_redirects=False)


def test_a_browser_finds_its_way_from_the_inference_port(lent: Lent) -> None:
    server = lent("chaos")
    page = get(f"{server.inference}/", BROWSER)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["vary"] == "accept"
    links = re.findall(r'href="([^"]+)"', page.text)
    assert "openapi.json" in links
    for link in links:
        assert not re.match(r"\w+:|/", link), "relative, so that it leads nowhere else behind a proxy"
        assert get(f"{server.inference}/{link}", BROWSER).status_code == 200


@pytest.mark.parametrize("accept", ["*/*", "application/json", ""])
def test_others_are_told_that_it_is_alive(servant: Lent, accept: str) -> None:
    answer = get(f"{servant.server.inference}/", accept)
    assert (answer.status_code, answer.json(), answer.headers["vary"]) == (200, {"status": "alive"}, "accept")


def test_the_description_is_at_its_usual_place(lent: Lent) -> None:
    server = lent("chaos")
    described = get(f"{server.inference}/openapi.json").json()
    assert "/predictions/chaos" in described["paths"]
    assert described == get(f"{server.inference}/api-description").json()
    assert "/models/{model_name}" in get(f"{server.management}/openapi.json").json()["paths"]


@pytest.mark.parametrize("path", ["/ping/", "/v2/", "/v1/models/", "/openapi.json/", "/models/", "/metrics/", "//"])
def test_nothing_is_redirected(servant: Lent, path: str) -> None:
    for url in (servant.server.inference, servant.server.management, servant.server.metrics):
        answer = get(url + path, BROWSER, **{"X-Forwarded-Proto": "https"})
        assert not answer.is_redirect
        assert "location" not in answer.headers
