"""pdserver with ports that other servers may listen on, too: the kernel divides the connections among them."""

from __future__ import annotations

import socket
from typing import Any

from pdserver.cli import main


class _Shared(socket.socket):
    def bind(self, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().bind(address)


if __name__ == "__main__":
    socket.socket = _Shared  # type: ignore[misc]
    main()
