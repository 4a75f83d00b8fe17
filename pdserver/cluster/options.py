"""What the command that starts a cluster decides, for all its parts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pdserver.cluster.messages import Message
from pdserver.cluster.node import LOOPBACK, NodeOptions
from pdserver.configuration.loading import load_config
from pdserver.configuration.server import Config
from pdserver.configuration.values import Address
from pdserver.security.listening import is_loopback


class ClusterOptions(Message, frozen=True, kw_only=True):
    """It crosses machines, on which the same paths need to be usable."""

    cluster: str
    """The id of this cluster, by which its snapshots are known."""
    state: str
    """The folder where each part keeps its own, on each machine."""
    directory: str
    """Where relative paths begin."""
    settings: Mapping[str, str]
    """By the keys of config.properties. Addresses are those of the cluster as a whole; the rest holds for each node."""
    environment: Mapping[str, str]
    """PD_ and TS_ variables, the tokens among them."""
    listen: str = ""
    """Where nodes listen: an address, "node" for the machine's own one, "" for loopback, if there is one machine."""
    node_port: int = 0
    """As `NodeOptions.port`."""
    entrances: int | None = 1
    """How many the cluster has of its own; None: one at each address of its machines."""

    def folder(self) -> Path:
        return Path(self.state) / "cluster"

    def config(self) -> Config:
        """Raises ConfigError."""
        return load_config(self.settings, self.environment)

    def behind(self, machine: str) -> Address | None:
        """Where the controller on the machine with this address listens behind entrances; None: there are none. They
        may be on other machines: then it does as nodes do."""
        if self.entrances == 0:
            return None
        if self.entrances == 1:
            return Address(LOOPBACK, 0)
        listen = self._listen(machine)
        return Address(listen, 0, bool(self.settings.get("certificate_file")) and not is_loopback(listen))

    def _listen(self, machine: str) -> str:
        return {"": LOOPBACK, "node": machine}.get(self.listen, self.listen)

    def node(self, node: str, address: str) -> NodeOptions:
        """For the machine with this address."""
        listen = self._listen(address)
        return NodeOptions(
            node=node,
            cluster=self.cluster,
            host=listen if is_loopback(listen) else address,
            listen=listen,
            port=self.node_port,
            settings=self.settings,
            environment=self.environment,
            directory=self.directory,
        )
