"""Archives of Paddle models: pack, inspect, verify, unpack. It knows nothing of the server that reads them.

from pathlib import Path
from pdarchiver import PackOptions, pack, verify

path = pack(PackOptions(model_name="price", version="1.0", serialized_file=Path("model/inference.json")))
print(verify(path).signature)
"""

from importlib import metadata

from pdarchiver.archive import ArchiveInfo, inspect, read_manifest, sha256, unpack, verify
from pdarchiver.errors import ArchiveError, InvalidArchive, InvalidManifest, InvalidModel, InvalidPipeline, PackingError
from pdarchiver.manifest import Manifest, Signature, TensorSpec
from pdarchiver.pack import PackOptions, pack
from pdarchiver.pipeline.packing import PackedPipeline, PipelineOptions, pack_pipeline
from pdarchiver.reading import Entry, Limits

__version__ = metadata.version("pdserver")

__all__ = [
    "ArchiveError",
    "ArchiveInfo",
    "Entry",
    "InvalidArchive",
    "InvalidManifest",
    "InvalidModel",
    "InvalidPipeline",
    "Limits",
    "Manifest",
    "PackOptions",
    "PackedPipeline",
    "PackingError",
    "PipelineOptions",
    "Signature",
    "TensorSpec",
    "inspect",
    "pack",
    "pack_pipeline",
    "read_manifest",
    "sha256",
    "unpack",
    "verify",
]
