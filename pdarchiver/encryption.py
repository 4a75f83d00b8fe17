"""Encrypted models in the form of Paddle's own: a random block of 16 bytes, then AES in counter mode from there on.

Source: AES_CTR_NoPadding in paddle/fluid/framework/io/crypto, which CipherFactory gives if no configuration says
otherwise. The form has no checksum: a wrong key gives other bytes and no error.

This needs the package `cryptography`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from pdarchiver.errors import PackingError

ENCRYPTED_MODEL, ENCRYPTED_PARAMS = "encrypt_model", "encrypt_params"
"""A file of this name is encrypted, whatever folder it is in."""
KEY_BYTES = (16, 24, 32)
_NEW_KEY_BYTES = 16
_BLOCK_BYTES = 16
_CHUNK_BYTES = 4 * 1024 * 1024


def is_encrypted(path: str) -> bool:
    """Whether the model in this file is encrypted."""
    return Path(path).name == ENCRYPTED_MODEL


def encrypt(source: BinaryIO, target: BinaryIO, key: bytes) -> None:
    """Write what is in `source` to `target`, encrypted. Raises PackingError without `cryptography`."""
    first = secrets.token_bytes(_BLOCK_BYTES)
    encryptor = _cipher(key, first).encryptor()
    target.write(first)
    while chunk := source.read(_CHUNK_BYTES):
        target.write(encryptor.update(chunk))


def decrypted(source: BinaryIO, key: bytes) -> Iterator[bytes]:
    """What is in `source`, piece by piece. Raises ValueError for a file that is too short to be encrypted, and for a
    key that has not one of KEY_BYTES; PackingError without `cryptography`."""
    first = source.read(_BLOCK_BYTES)
    if len(first) < _BLOCK_BYTES:
        raise ValueError("too short to be encrypted")
    decryptor = _cipher(key, first).decryptor()
    while chunk := source.read(_CHUNK_BYTES):
        yield decryptor.update(chunk)


def read_key(path: Path) -> bytes:
    """The key in a file, as `new_key` or Paddle's CipherUtils wrote it. Raises ValueError, OSError."""
    with path.open("rb") as file:
        return checked_key(file.read(max(KEY_BYTES) + 1))


def checked_key(key: bytes) -> bytes:
    """`key`. Raises ValueError unless it has one of KEY_BYTES; its text does not show the key."""
    if len(key) not in KEY_BYTES:
        raise ValueError("expected a key of 16, 24 or 32 bytes, and nothing else")
    return key


@contextmanager
def new_key(path: Path) -> Iterator[bytes]:
    """Make a key of 128 bits in a new file that only its owner can read. If the block fails, the file is removed.

    Raises PackingError if there is a file already.
    """
    key = secrets.token_bytes(_NEW_KEY_BYTES)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise PackingError(
            f"--key {path}: exists already, and may be the key of another model: name a new file"
        ) from None
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(fd)
        yield key
    except BaseException:
        with suppress(FileNotFoundError):
            path.unlink()
        raise


def _cipher(key: bytes, first: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    except ModuleNotFoundError:
        raise PackingError("encrypted models need one more package: pip install 'pdserver[encryption]'") from None
    return Cipher(algorithms.AES(checked_key(key)), modes.CTR(first))
