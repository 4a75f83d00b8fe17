"""One version of a model, from when it was first wanted."""

from __future__ import annotations

import asyncio

from pdserver.dialects.tensorflow.control import State, VersionStatus
from pdserver.dialects.tensorflow.errors import CODES
from pdserver.errors import PdError
from pdserver.tfserving.source import VersionFolder


class Version:
    """Its model changes it."""

    def __init__(self, folder: VersionFolder) -> None:
        self.folder = folder
        self.state = State.START
        self.error: PdError | None = None
        """Why the last try to load it failed."""
        self.wanted = True
        self.tried = asyncio.Event()
        """It serves, or the first try to load it has failed."""
        self.news = asyncio.Event()
        """It is not wanted any more, or its files have changed: who waits to load it again need not."""

    @property
    def status(self) -> VersionStatus:
        if self.error is None:
            return VersionStatus(self.folder.number, self.state)
        return VersionStatus(self.folder.number, self.state, CODES[self.error.kind], str(self.error))

    def begins_anew(self, folder: VersionFolder) -> bool:
        """Whether this is over, and the version that is wanted now is another try."""
        return self.state is State.END and (not self.wanted or folder != self.folder)

    def is_another(self, folder: VersionFolder) -> bool:
        """Whether it serves, and there is another model for it now. What changes in its own folder does not count:
        versions stay as they are."""
        return self.state is State.AVAILABLE and folder.path != self.folder.path

    def want(self, folder: VersionFolder) -> None:
        if self.state is State.UNLOADING:
            return  # it begins anew once it has ended
        self.wanted = True
        if self.state is State.LOADING and folder != self.folder:
            self.folder = folder
            self.news.set()

    def drop(self) -> None:
        self.wanted = False
        self.news.set()
