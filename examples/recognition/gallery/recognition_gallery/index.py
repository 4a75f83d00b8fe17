"""A gallery on disk: vectors in faiss's format, names as JSON. Many processes read it, one at a time changes it.

    current         the number of the generation that is in force
    7/vector.index  that generation: faiss's index, from vectors of length 1 to ids
    7/labels.json   {"next": id, "labels": {id: label}}
    lock            whoever changes the gallery holds it

A generation never changes. A change writes the next one beside it, and then `current`, in one step. So readers see the
gallery before or after a change, and a crash leaves it as it was.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

faiss.omp_set_num_threads(1)  # a worker has one processor's share

Vectors = NDArray[np.float32]


class Gallery:
    """Labels and their vectors; one label may have several. Look-ups first see whether another process changed it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.generation = 0
        """The one that this object has loaded; 0: none yet."""
        self.labels: dict[int, str] = {}
        self._next = 0
        self._index: Any = None

    def refresh(self) -> None:
        """Load what is in force, if that is another generation. Raises OSError where there is no gallery."""
        while (generation := self._in_force()) != self.generation:
            folder = self.folder / str(generation)
            try:
                names = json.loads((folder / "labels.json").read_text("utf-8"))
                index = faiss.deserialize_index(np.frombuffer((folder / "vector.index").read_bytes(), np.uint8))
            except FileNotFoundError:
                if generation == self._in_force():
                    raise
                continue  # two changes since `current` was read: it is gone
            self.labels = {int(key): label for key, label in names["labels"].items()}
            self.generation, self._next, self._index = generation, names["next"], index

    def nearest(self, vectors: Vectors) -> tuple[list[str], list[float]]:
        """For each vector [n, size] the label of the nearest one, and how alike they are: 1 is the same, 0 nothing at
        all. Raises OSError where there is no gallery."""
        self.refresh()
        if not self.labels or not len(vectors):
            return [""] * len(vectors), [0.0] * len(vectors)
        alike, ids = self._index.search(np.ascontiguousarray(vectors), 1)
        return [self.labels[key] for key in ids[:, 0].tolist()], alike[:, 0].tolist()

    def add(self, labels: list[str], vectors: Vectors) -> list[int]:
        """The ids of the new entries: `vectors` [len(labels), size] of length 1. Raises ValueError for vectors of
        another size than those that are there."""
        with self._changing():
            ids = list(range(self._next, self._next + len(labels)))
            if self._index is None:
                # Exact, and it can forget. For millions of vectors: faiss.index_factory(size, "IVF4096,Flat", …).
                self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(vectors.shape[1]))
            if vectors.shape[1] != self._index.d:
                raise ValueError(
                    f"vectors of {vectors.shape[1]} numbers, in a gallery of {self._index.d}: fill it anew"
                )
            self._index.add_with_ids(np.ascontiguousarray(vectors), np.array(ids, np.int64))
            self.labels |= dict(zip(ids, labels, strict=True))
            self._next += len(ids)
        return ids

    def remove(self, entry: int) -> str:
        """Its label. Raises KeyError for an id that is not there."""
        with self._changing():
            label = self.labels.pop(entry)
            self._index.remove_ids(np.array([entry], np.int64))
        return label

    def _in_force(self) -> int:
        return int((self.folder / "current").read_text())

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """What is changed in this object meanwhile becomes the next generation, unless that raises."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (self.folder / "current").exists():
                self.refresh()
            try:
                yield
                self._write(self.generation + 1)
            except BaseException:  # what was changed here is not in force
                self.generation, self.labels, self._next, self._index = 0, {}, 0, None
                raise
            self.generation += 1
            for old in self.folder.iterdir():
                # The last one stays, for readers that are about to load it.
                if old.name.isdecimal() and int(old.name) < self.generation - 1:
                    shutil.rmtree(old)

    def _write(self, generation: int) -> None:
        folder = self.folder / str(generation)
        shutil.rmtree(folder, ignore_errors=True)  # of a process that ended meanwhile
        folder.mkdir()
        _write(folder / "vector.index", faiss.serialize_index(self._index).tobytes())
        names = {"next": self._next, "labels": {str(key): label for key, label in self.labels.items()}}
        _write(folder / "labels.json", json.dumps(names, ensure_ascii=False).encode())
        _write(self.folder / "current.new", str(generation).encode())
        for each in (folder, self.folder):
            _flush(each)  # the names, before `current` says that they are there
        (self.folder / "current.new").replace(self.folder / "current")
        _flush(self.folder)


def _write(file: Path, data: bytes) -> None:
    """On the disk when it returns, not only in the system's memory."""
    with file.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def _flush(folder: Path) -> None:
    """The names in it are on the disk when it returns."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
