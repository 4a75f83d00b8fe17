"""A cluster of machines with addresses of their own, all of whose parts show one another certificates.

It is started as docs/cluster.md says. Clients need a token and a certificate. Some ask at the entrance, others at the
nodes themselves. `make soak` runs it, since Ray takes a minute to begin three machines.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from tests.cluster.load import GrpcLine, HttpLine, Identity, Line, Load, loaded
from tests.cluster.machines import Host, Hosts, network
from tests.cluster.running import SOON_SECONDS, AnyCluster
from tests.running import eventually
from tests.security.certificates import Pair, authority, signed
from tests.without_paddle import no_paddle

pytestmark = pytest.mark.soak


class SecureCluster(AnyCluster):
    """Nodes and clients have the same certificate."""

    def __init__(self, folder: Path, hosts: Hosts) -> None:
        ca = authority(folder / "ca")
        own = signed(ca, folder, "node", addresses=[host.address for host in hosts])
        super().__init__(folder, hosts, _tls(ca, own), "https")
        self.hosts = hosts
        self.identity = Identity(ca.certificate, own.certificate, own.key)
        self.session.verify, self.session.cert = str(ca.certificate), (str(own.certificate), str(own.key))
        self.headers: dict[str, str] = {}
        """With the token for predictions, once the cluster has started."""
        self._nodes: dict[str, dict[str, str]] = {}

    def start(self, *words: str) -> None:
        super().start(*words)
        tokens = json.loads((self.folder / "state" / "cluster" / "tokens.json").read_bytes())
        self.session.headers["Authorization"] = f"Bearer {tokens['management']['key']}"
        self.headers = {"Authorization": f"Bearer {tokens['inference']['key']}"}

    @property
    def entrance(self) -> list[str]:
        return [self.inference, self.grpc]

    def at(self, host: Host) -> list[str]:
        """The addresses of the node there, of HTTP and gRPC."""
        if not self._nodes:  # they keep their ports
            self._nodes = {str(urlsplit(each["inference"]).hostname): each for each in self.nodes().values()}
        found = self._nodes[host.address]
        return [found["inference"], found["grpc"]]

    def ready(self, name: str) -> set[str]:
        """The addresses of the machines where copies are ready."""
        return {copy["host"] for copy in self.described(name)["copies"]["nodes"] if copy["status"] == "READY"}

    def line(self, address: str, model: str) -> Line:
        return (HttpLine if address.startswith("https") else GrpcLine)(address, model, self.headers, self.identity)

    def ask(self, address: str, model: str, number: int = 7) -> float:
        with contextlib.closing(self.line(address, model)) as line:
            return line.ask(number)

    def loaded(self, addresses: list[str], model: str, factor: int) -> contextlib.AbstractContextManager[Load]:
        return loaded(addresses, model, [factor], len(addresses), self.headers, self.identity)

    def is_whole(self) -> bool:
        """Whether all machines are heard."""
        return f'pd_cluster_nodes{{state="ready",}} {len(self.hosts)}.0' in self.measured("pd_cluster_nodes")

    def measured(self, name: str) -> str:
        return self.session.get(f"{self.metrics}/metrics?name[]={name}", timeout=SOON_SECONDS).text


def _tls(ca: Pair, own: Pair) -> dict[str, str]:
    files = {"certificate_file": own.certificate, "private_key_file": own.key, "enable_grpc_ssl": "true"}
    return {
        key: str(value)
        for key, value in {**files, "client_ca_file": ca.certificate, "peers_ca_file": ca.certificate}.items()
    }


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureCluster]:
    folder = tmp_path_factory.mktemp("machines")
    (folder / "site").mkdir()
    with no_paddle(folder / "site"), network(3) as hosts:
        hosts.join()
        cluster = SecureCluster(folder, hosts)
        try:
            cluster.start("--listen", "node")
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture
def cluster(running: SecureCluster) -> Iterator[SecureCluster]:
    """Without a model."""
    yield running
    running.unregister_all()


def test_every_way_in_answers_on_every_machine(cluster: SecureCluster) -> None:
    """Also where the model is not: that node passes the request on."""
    cluster.register("m", 3, copies=2)
    assert len(cluster.ready("m")) == 2
    ways = [*cluster.entrance, *(address for host in cluster.hosts for address in cluster.at(host))]
    assert [cluster.ask(address, "m") for address in ways] == [21] * 8
    text = cluster.measured("pd_forwarded_total")
    assert text.count('outcome="answered"} 1.0') + 2 * text.count('outcome="answered"} 2.0') == 2
    targets = cluster.session.get(f"{cluster.management}/prometheus/targets", timeout=SOON_SECONDS).json()
    assert {target["labels"]["host"] for target in targets} == {host.address for host in cluster.hosts}
    for target in targets:
        url = f"{target['labels']['__scheme__']}://{target['targets'][0]}/metrics"
        assert "Requests2XX" in cluster.session.get(url, timeout=SOON_SECONDS).text


def test_who_shows_no_certificate_or_token_is_let_in_nowhere(cluster: SecureCluster) -> None:
    cluster.register("m", 3)
    for address in (cluster.inference, cluster.management, *(cluster.at(host)[0] for host in cluster.hosts)):
        with requests.Session() as session:
            session.trust_env, session.verify = False, cluster.session.verify
            with pytest.raises(requests.ConnectionError):
                session.get(f"{address}/models", timeout=SOON_SECONDS)
            session.cert = cluster.session.cert
            assert session.get(f"{address}/models/m", timeout=SOON_SECONDS).status_code == 401


def test_a_machine_that_nobody_reaches_is_done_without_until_it_is_back(cluster: SecureCluster) -> None:
    """Nothing says that what is sent there is lost, so what was on its way is given up and sent to another one. Its own
    node answers whoever is on its side."""
    cluster.register("m", 3, copies=2)
    cut = next(host for host in cluster.hosts[1:] if host.address in cluster.ready("m"))
    there, rest = cluster.at(cut), [way for host in cluster.hosts if host is not cut for way in cluster.at(host)]
    with cluster.loaded(cluster.entrance * 2, "m", 3) as through, cluster.loaded(rest, "m", 3) as direct:
        with cut.cut():
            eventually(lambda: len(cluster.ready("m") - {cut.address}) == 2, SOON_SECONDS)
            go_on(through)
            go_on(direct)
            with cut.inside():
                assert cluster.ask(there[0], "m") == 21
        eventually(cluster.is_whole, SOON_SECONDS)
        eventually(lambda: len(cluster.described("m")["copies"]["nodes"]) == 2, SOON_SECONDS)
        assert [cluster.ask(address, "m") for address in there] == [21, 21]
    for load in (through, direct):
        account = load.stop()
        assert (account.wrong, account.lost) == ([], 0), str(account)


def go_on(load: Load) -> None:
    """Until each client has been answered again: none of them hangs."""
    before = list(load.begun)
    eventually(lambda: all(now > then + 1 for now, then in zip(load.begun, before, strict=True)), SOON_SECONDS)
