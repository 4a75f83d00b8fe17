"""Memory for what is being received, of which all connections of the server have one supply."""

from __future__ import annotations


class Budget:
    """Bytes that bodies may have together before they are complete. Owned by the event loop's thread.

    Who is refused gives back what it has, so the others get on. To pause the reading instead would not do: bodies that
    wait for each other's memory would all wait for ever.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.held_bytes = 0

    def take(self, more_bytes: int, own_bytes: int) -> bool:
        """Whether a body that has `own_bytes` of them may have more. One alone may, however large it is."""
        held = self.held_bytes + more_bytes
        if held > self.capacity_bytes and self.held_bytes > own_bytes:
            return False
        self.held_bytes = held
        return True

    def give_back(self, own_bytes: int) -> None:
        """What a body had: it is complete, or not wanted any more."""
        self.held_bytes -= own_bytes
