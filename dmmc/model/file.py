"""Files of tensors with a JSON header: what models and checkpoints of their training are kept in.

They are safetensors files, so that reading one runs no code from it. The metadata hold a format name, its version, the
header, and since format version 2 a SHA-256 of header and tensors, which is verified on every read. What is read is
what was written, or the file is refused, whatever its bytes are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, uint8

from dmmc.core.errors import FileError
from dmmc.core.files import replace_file
from dmmc.core.records import json_text

CHECKSUM_SINCE = 2
"""Format version from which on a file must have a checksum."""


@dataclass(frozen=True)
class TensorFile:
    """The contents of a file.

    Attributes:
        tensors: by name.
        header: what was written with them.
        version: format version of the file.
    """

    tensors: dict[str, Tensor]
    header: dict[str, Any]
    version: int


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], format_name: str, version: int, header: Mapping[str, Any]
) -> Path:
    """Write a safetensors file with a JSON header, under a temporary name that is then replaced by the final one.

    Raises:
        FileError: if the file cannot be written.
        DmmcError: if the header holds something that JSON has no form for.
    """
    path = Path(path)
    text = json_text(header, f"the header of {path}")
    metadata = {
        "format": format_name,
        "format_version": str(version),
        "header": text,
        "sha256": _checksum(text, tensors),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # safetensors' own save_file makes files that only their owner can read, whatever the umask.
        content = save(dict(tensors), metadata)
        replace_file(path, lambda temporary: temporary.write_bytes(content))
    except (OSError, SafetensorError) as error:
        raise FileError(f"cannot write {path}: {error}") from None
    return path


def is_tensor_file(path: Path) -> bool:
    """Whether a file begins as those of :func:`write_tensors` do, whatever its name is."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(9)[8:] == b"{"


def read_tensors(path: str | Path, format_name: str, version: int) -> TensorFile:
    """Read what :func:`write_tensors` wrote.

    Args:
        path: the file.
        format_name: the format that the file must have.
        version: newest format version that can be read.

    Raises:
        FileError: if the file is missing, truncated, damaged, foreign, or of a newer version.
    """
    if not Path(path).is_file():
        raise FileError(f"there is no file {path}")
    try:
        # Everything at once: opened a second time for the header, this could be another file, where a training that
        # goes on has replaced its checkpoint in between.
        data = Path(path).read_bytes()
        tensors = load(data)
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    except Exception as error:  # whatever safetensors, torch and json make of bytes that are none of theirs
        raise FileError(f"{path} is truncated or not a safetensors file ({error})") from None
    if metadata.get("format") != format_name:
        raise FileError(f"{path} is a safetensors file but not a {format_name} file")
    try:
        file_version, text = int(metadata["format_version"]), metadata["header"]
        header = json.loads(text)
    except (KeyError, ValueError, RecursionError) as error:
        raise FileError(f"{path} has no readable header ({error}); restore it or make it again") from None
    if file_version > version:
        raise FileError(f"{path} was written by a newer dmmc; upgrade to read it")
    if not isinstance(header, dict):
        raise FileError(f"{path} has no readable header (it is not a JSON object); restore it or make it again")
    if file_version < 1:
        raise FileError(f"{path} has format version {file_version}, which does not exist; restore it or make it again")
    checksum = metadata.get("sha256")
    if checksum is None and file_version >= CHECKSUM_SINCE:
        raise FileError(f"{path} has no checksum; restore it or make it again")
    if checksum is not None and file_version < CHECKSUM_SINCE:
        raise FileError(f"{path} is damaged: files of its version have no checksum; restore it or make it again")
    if checksum is not None and checksum != _checksum(text, tensors):
        raise FileError(f"{path} is damaged: its contents do not match their checksum; restore it or make it again")
    return TensorFile(tensors, header, file_version)


def _checksum(header: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the header and of name, type, shape and bytes of every tensor."""
    digest = hashlib.sha256(header.encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        # Through bytes, since NumPy does not have all types of numbers that torch has.
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(uint8).numpy().tobytes())
    return digest.hexdigest()
