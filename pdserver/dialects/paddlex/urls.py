"""Pictures that requests name by their URL: fetched where the operator allows it, and nowhere else."""

from __future__ import annotations

import asyncio
from io import BytesIO

from pdserver.configuration.sources import AllowedUrls, parse_url
from pdserver.errors import ArchiveUnusable, Forbidden, InvalidRequest
from pdserver.formats.values import shown
from pdserver.store.transfer import Transfer

KEY = "image_urls"
_SECONDS = 10.0
_AT_A_TIME = 8


class Pictures:
    """`allowed` are the URLs that the key `image_urls` names; `max_bytes`: of a picture."""

    def __init__(self, allowed: AllowedUrls, max_bytes: int) -> None:
        self._allowed = allowed
        self._max_bytes = max_bytes
        self._turns = asyncio.Semaphore(_AT_A_TIME)

    async def fetched(self, text: str) -> bytes:
        """Raises Forbidden for a URL, a redirect or an address that is not allowed, InvalidRequest for what is no URL
        or can't be downloaded."""
        if not self._allowed.prefixes:
            raise Forbidden(
                f"{shown(text)}: URLs are not fetched: send the file in base64, or let the operator name the URLs that "
                f"are allowed ({KEY})"
            )
        try:
            url = parse_url(text)
        except ValueError:
            said = "expected a URL such as https://host/path, with special characters as %XX"
            raise InvalidRequest(f"{shown(text)}: {said}") from None
        self._allowed.check_prefix(url)
        limits = ("max_request_size", "for files that requests name")
        transfer = Transfer(url, self._allowed, max_bytes=self._max_bytes, timeout_seconds=_SECONDS, limits=limits)
        file = BytesIO()
        try:
            async with self._turns:
                await asyncio.to_thread(transfer.run, file)
        except ArchiveUnusable as error:
            raise InvalidRequest(str(error)) from None
        return file.getvalue()
