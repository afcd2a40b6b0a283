"""Look into a file of torch.save before torch reads it: its sizes, its checksums, what it builds.

Such a file is a zip archive whose entries are not compressed, and so it needs about as much memory
as it has bytes. Its `data.pkl` names what the reader shall build.
"""

import pickletools
import zipfile
from pathlib import Path

from runtime.errors import InputError
from runtime.files import MIB

MAX_PICKLE_BYTES = 4 * MIB  # without the tensors' numbers; ours have some hundred kilobytes
MAX_OPCODES = 1_000_000  # of the pickle; ours have some ten thousand
DTYPES = "Float Double Half BFloat16 Long Int Short Char Byte Bool".split()
# All that `torch.save` names for plain values and dense tensors on any device.
BUILT = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2"}
BUILT |= {f"torch {dtype}Storage" for dtype in DTYPES}
BUILDING = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}


def check_archive(path: Path) -> None:
    """Read the file once, piece by piece, and refuse what no checkpoint of this program has.

    Raises:
        InputError: an entry is compressed, larger than it can be, or damaged, or `data.pkl` builds
            other things than plain values and dense tensors.
        Exception: the file is no zip archive. The zip reader raises whatever it meets.
    """
    with open(path, "rb") as file:
        if file.read(2) != b"PK":  # torch would read an old format in front of the archive
            raise InputError(
                f"{path}: truncated or not a checkpoint of this program: no zip archive"
            )
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        check_entries(path, entries)
        damaged = archive.testzip()
        if damaged is not None:
            raise InputError(
                f"{path}: truncated or damaged on the disk: the checksum of its entry {damaged!r} "
                "is wrong; take a copy, or another checkpoint"
            )
        [content] = [archive.read(entry) for entry in entries if is_pickle(entry)]
    foreign = sorted(built_names(content) - BUILT)
    if foreign:
        raise InputError(
            f"{path}: not a checkpoint of this program: it holds {foreign[0]!r}, expected plain "
            "values and dense tensors of real numbers alone"
        )


def check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Refuse an archive that would take more memory than it has bytes."""
    names = {entry.filename.lower() for entry in entries}  # torch's reader ignores case
    if len(names) < len(entries) or sum(map(is_pickle, entries)) != 1:
        raise InputError(f"{path}: not a checkpoint of this program: expected one data.pkl in it")
    size = path.stat().st_size
    unpacked = sum(entry.file_size for entry in entries)
    is_compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if is_compressed or unpacked > size:
        raise InputError(
            f"{path}: not a checkpoint of this program: it unpacks to {unpacked / MIB:,.0f} MiB "
            f"from {size / MIB:,.0f}, expected entries that are not compressed"
        )
    pickle_size = sum(entry.file_size for entry in entries if is_pickle(entry))
    if pickle_size > MAX_PICKLE_BYTES:
        raise InputError(
            f"{path}: not a checkpoint of this program: its data.pkl has "
            f"{pickle_size / MIB:,.0f} MiB, expected at most {MAX_PICKLE_BYTES / MIB:,.0f}"
        )


def is_pickle(entry: zipfile.ZipInfo) -> bool:
    """Tell whether an entry is the one that names what to build."""
    return entry.filename.lower().endswith("data.pkl")


def built_names(content: bytes) -> set[str]:
    """Return the names of all classes and functions in a pickle, which is not executed.

    A way to name them that `torch.save` does not use stands for itself.

    Raises:
        ValueError: the pickle is damaged, or has more opcodes than any checkpoint of ours.
    """
    names = set()
    for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if number == MAX_OPCODES:
            raise ValueError(f"more than {MAX_OPCODES:,} values")
        if opcode.name == "GLOBAL" or opcode.name in BUILDING:
            names.add(str(argument) if opcode.name == "GLOBAL" else opcode.name)
    return names
