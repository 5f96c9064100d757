"""Bad videos, made of real ones: truncated, with flipped bits, swapped atoms, wild numbers, wrong names.

    python tests/helpers/mutations.py DATA OUT [--seed 0] [--numbers 17 42]

Candidate ``number`` of a ``seed`` is always the same file, so that a finding can be made again from its name.
"""

from __future__ import annotations

import argparse
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
from outlines import Element, outline

Rng = np.random.Generator
MOST_UNOPENED = 0.4  # of the files that are kept: decoding is to be tried, not only probing


@dataclass(frozen=True)
class Source:
    """A real video to mutate."""

    name: str
    suffix: str
    data: bytes


# --- what is done to a file's bytes: (rng, data) to other bytes


def truncate(rng: Rng, data: bytes) -> bytes:
    return data[: int(len(data) * rng.uniform(0.01, 0.99))]


def flip_header(rng: Rng, data: bytes) -> bytes:
    whole = outline(data)
    header = [each for each in whole if each.kind in HEADERS] or [Element(b"", -1, 0, 0, min(len(data), 4096))]
    return _flip(rng, data, *_span(_pick(rng, header)), most=16)


def flip_index(rng: Rng, data: bytes) -> bytes:
    index = [each for each in outline(data) if each.kind in INDICES] or [Element(b"", -1, 0, 0, len(data))]
    return _flip(rng, data, *_span(_pick(rng, index)), most=16)


def flip_payload(rng: Rng, data: bytes) -> bytes:
    return _flip(rng, data, len(data) // 20, len(data) - len(data) // 20, most=200)


def flip_codec(rng: Rng, data: bytes) -> bytes:
    """What sets the codec up: the size of the picture is in there."""
    setup = [each for each in outline(data) if each.kind in SETUPS] or [Element(b"", -1, 0, 0, min(len(data), 2048))]
    return _flip(rng, data, *_span(_pick(rng, setup)), most=4)


def zero_range(rng: Rng, data: bytes) -> bytes:
    start, n = int(rng.uniform(0.002, 0.95) * len(data)), int(len(data) * rng.uniform(0.001, 0.3))
    return data[:start] + bytes(len(data[start : start + n])) + data[start + n :]


def prepend_garbage(rng: Rng, data: bytes) -> bytes:
    return rng.bytes(int(rng.integers(1, 5000))) + data


def append_garbage(rng: Rng, data: bytes) -> bytes:
    return data + rng.bytes(int(rng.integers(1, 500_000)))


def insert_garbage(rng: Rng, data: bytes) -> bytes:
    at = int(rng.uniform(0.01, 0.99) * len(data))
    return data[:at] + rng.bytes(int(rng.integers(1, 5000))) + data[at:]


def shuffle_pieces(rng: Rng, data: bytes) -> bytes:
    """Some 4 KiB pieces change places, as on a broken disk; the first one stays."""
    pieces = [data[at : at + 4096] for at in range(0, len(data), 4096)]
    some = rng.permutation(np.arange(1, len(pieces)))[:6]
    for one, other in zip(some[::2], some[1::2], strict=False):
        pieces[one], pieces[other] = pieces[other], pieces[one]
    return b"".join(pieces)


def swap_elements(rng: Rng, data: bytes) -> bytes:
    whole = outline(data)
    families = [[each for each in whole if each.parent == parent] for parent in {each.parent for each in whole}]
    families = [family for family in families if len(family) > 1]
    if not families:
        return shuffle_pieces(rng, data)
    family = _pick(rng, families)
    one, other = (family[i] for i in sorted(rng.choice(len(family), 2, replace=False)))
    parts = (one.start, one.end, other.start, other.end)
    a, b, c, d = parts
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def duplicate_element(rng: Rng, data: bytes) -> bytes:
    start, end = _span(_pick(rng, _small(outline(data), data)))
    return data[:end] + data[start:end] + data[end:]


def drop_element(rng: Rng, data: bytes) -> bytes:
    start, end = _span(_pick(rng, _small(outline(data), data)))
    return data[:start] + data[end:]


def blank_element(rng: Rng, data: bytes) -> bytes:
    element = _pick(rng, _small(outline(data), data))
    return data[: element.body] + bytes(element.end - element.body) + data[element.end :]


def resize_element(rng: Rng, data: bytes) -> bytes:
    element = _pick(rng, _small(outline(data), data))
    if not element.size_bytes:  # a transport packet has none: one that is too short
        return data[: element.end - int(rng.integers(1, 188))] + data[element.end :]
    old = data[element.size_at : element.size_at + element.size_bytes]
    new = bytearray(_wild_bytes(rng, element.size_bytes))
    if data[:1] == b"\x1a":  # the length of the number is written before it
        marker = 1 << (8 - element.size_bytes)
        new[0] = marker | (new[0] & (marker - 1))
    at = element.size_at
    return data[:at] + bytes(new) + data[at + len(old) :]


def wild_numbers(rng: Rng, data: bytes) -> bytes:
    """Durations, timescales, sizes of pictures, entries and counts of the tables."""
    numeric = [each for each in outline(data) if each.kind in NUMBERS and each.end > each.body]
    if not numeric:
        return _wild_times(rng, data)
    changed = bytearray(data)
    kinds = sorted({each.kind for each in numeric})
    kind = kinds[int(rng.integers(len(kinds)))]  # a kind first: there are many blocks, and one duration
    element = _pick(rng, [each for each in numeric if each.kind == kind])
    n = element.end - element.body
    width = n if n <= 8 else 4
    for _ in range(int(rng.integers(1, 4)) if n > 8 else 1):
        at = element.body + width * int(rng.integers(n // width))
        is_float = kind == b"\x44\x89"
        changed[at : at + width] = _wild_float(rng, width) if is_float else _wild_bytes(rng, width)
    return bytes(changed)


def enlarge_picture(rng: Rng, data: bytes) -> bytes:
    """An H.264 parameter set that claims a picture of up to 16384 × 16384."""
    found = re.search(rb"\xe1\0(.)\x67", data, re.DOTALL)  # one set, its length, and the set's first byte
    if found is None:
        return flip_codec(rng, data)
    start = found.end() - 1
    end = start + found[1][0]
    sides = (2 ** rng.uniform(6, 10, 2)).astype(int).tolist()  # in macroblocks of 16 × 16
    return data[:start] + _resize_h264(data[start:end], *sides) + data[end:]


def _resize_h264(sps: bytes, width: int, height: int) -> bytes:
    """Write other sizes, in macroblocks, into a sequence parameter set, H.264 7.3.2.1.1, and end it behind them."""
    bits = "".join(f"{byte:08b}" for byte in sps.replace(b"\0\0\3", b"\0\0"))
    at = 32

    def read() -> int:
        nonlocal at
        n = bits.index("1", at) - at
        at += 2 * n + 1
        return int(bits[at - n - 1 : at], 2) - 1

    def spell(number: int) -> str:
        return f"{number + 1:b}".zfill(2 * (number + 1).bit_length() - 1)

    read()
    if sps[1] in (100, 110, 122, 244):
        read(), read(), read()
        at += 2
    read()
    if read() == 0:
        read()
    read()
    at += 1
    before = bits[:at]
    read(), read()
    frames_only = bits[at : at + 2] if bits[at] == "1" else bits[at : at + 3]
    bits = f"{before}{spell(width - 1)}{spell(height - 1)}{frames_only}001"  # no cropping, nothing about its use
    bits += "0" * (-len(bits) % 8)
    new = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    new = re.sub(rb"\0\0([\0-\3])", lambda found: b"\0\0\3" + found[1], new)
    return new.ljust(len(sps), b"\0")[: len(sps)]


def _wild_times(rng: Rng, data: bytes) -> bytes:
    """Overwrite times in the headers of a transport stream's packets."""
    changed = bytearray(data)
    headers = [
        at for at in range(0, len(data) - 18) if data[at : at + 3] == b"\0\0\1" and data[at + 3] in range(0xE0, 0xF0)
    ]
    for at in rng.permutation(headers)[: int(rng.integers(1, 20))]:
        changed[at + 9 : at + 14] = rng.bytes(5)
    return bytes(changed)


HEADERS = {b"moov", b"hdrl", b"strh", b"strf", b"avih", b"\x16\x54\xae\x6b", b"\x15\x49\xa9\x66"}
INDICES = {b"stbl", b"idx1", b"indx", b"\x1c\x53\xbb\x6b", b"\x11\x4d\x9b\x74"}
SETUPS = {b"stsd", b"strf", b"\x63\xa2"}
NUMBERS = {
    *b"mvhd tkhd mdhd elst stsd stts ctts stsc stsz stco co64 stss sidx trun tfhd trex avih strh strf idx1".split(),
    *map(bytes.fromhex, "4489 2ad7b1 e7 b0 ba 54b0 54ba 23e383 b3 f1 d7 9b".split()),
}


def _flip(rng: Rng, data: bytes, start: int, end: int, most: int) -> bytes:
    changed = np.frombuffer(data, np.uint8).copy()
    for at in rng.integers(start, max(end, start + 1), int(rng.integers(1, most + 1))):
        changed[at] ^= 1 << int(rng.integers(8))
    return changed.tobytes()


def _wild_bytes(rng: Rng, n: int) -> bytes:
    top = 1 << 8 * n
    known = [0, 1, 7, top // 2 - 1, top // 2, top - 1, 10**9 % top]
    return _pick(rng, [*known, int.from_bytes(rng.bytes(n)), int.from_bytes(rng.bytes(n))]).to_bytes(n)


def _wild_float(rng: Rng, n: int) -> bytes:
    value = _pick(rng, [0.0, -1.0, 1e9, 1e15, float("inf"), float("nan")])
    return struct.pack(">f" if n == 4 else ">d", value)


def _small(elements: list[Element], data: bytes) -> list[Element]:
    """Those that leave something of the file when they are gone; all of it, where it has no structure."""
    kept = [each for each in elements if each.end - each.start < 0.9 * len(data)]
    return kept or [Element(b"", -1, 0, 0, len(data) // 2)]


def _span(element: Element) -> tuple[int, int]:
    return element.start, element.end


def _pick(rng: Rng, things: Sequence):
    return things[int(rng.integers(len(things)))]


MUTATIONS: dict[str, Callable[[Rng, bytes], bytes]] = {
    each.__name__: each
    for each in (
        *(truncate, zero_range, shuffle_pieces, prepend_garbage, append_garbage, insert_garbage),
        *(flip_header, flip_index, flip_payload, flip_codec, wild_numbers, enlarge_picture),
        *(swap_elements, duplicate_element, drop_element, blank_element, resize_element),
    )
}
SUFFIXES = (".mp4", ".mkv", ".avi", ".ts", ".mov", ".webm", ".mpg", ".wmv", ".flv")


# --- files


def read_sources(folder: Path, work: Path) -> list[list[Source]]:
    """Read the real videos below a folder by groups; some are put into AVI and MPEG-TS too, below ``work``."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in {".mp4", ".mov", ".mkv", ".wav"})
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(path.relative_to(folder).parts[0], []).append(path)
    short = [path for path in groups["robot_tasks"] if path.stem.startswith("task")][:6]
    groups["avi"] = [_to_avi(path, work / f"{path.stem}.avi") for path in short]
    groups["ts"] = [_to_ts(path, work / f"{path.stem}.ts") for path in short]
    return [[Source(path.stem, path.suffix, path.read_bytes()) for path in group] for group in groups.values()]


def _to_avi(path: Path, target: Path) -> Path:
    """Encode the first 90 frames as MPEG-4 part 2."""
    with av.open(str(path)) as source, av.open(str(target), "w") as out:
        stream, seen = out.add_stream("mpeg4", rate=20), source.streams.video[0]
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = seen.width, seen.height, "yuv420p", 500_000
        for i, frame in enumerate(islice(source.decode(seen), 90)):
            frame.pts, frame.time_base = i, Fraction(1, 20)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return target


def _to_ts(path: Path, target: Path) -> Path:
    """Put the packets as they are into a transport stream."""
    with av.open(str(path)) as source, av.open(str(target), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    return target


def mutate(sources: list[list[Source]], seed: int, number: int) -> tuple[str, str, bytes]:
    """Make one bad video: its file's name, the kind of mutation, and its bytes."""
    rng = np.random.default_rng([seed, number])
    kinds = [*MUTATIONS, "rename", "splice"]
    kind = kinds[number % len(kinds)]
    source = _pick(rng, _pick(rng, sources))
    suffix = source.suffix if source.suffix != ".wav" else ".mp4"
    if kind == "rename":
        suffix, data = _pick(rng, [each for each in SUFFIXES if each != suffix]), source.data
    elif kind == "splice":
        other, at = _pick(rng, _pick(rng, sources)).data, rng.uniform(0.1, 0.9)
        data = source.data[: int(at * len(source.data))] + other[int(at * len(other)) :]
    else:
        data = MUTATIONS[kind](rng, source.data)
    return f"{number:04d}_{kind}_{source.name}{suffix}", kind, data


def write_mutations(
    sources: list[list[Source]], folder: Path, n: int, seed: int, opens: Callable[[Path], bool]
) -> Iterator[tuple[Path, str]]:
    """Write ``n`` bad videos of which most still open, and yield each with its kind.

    Candidates are taken in order; those that ``opens`` refuses are passed over once they would be more than
    `MOST_UNOPENED` of the files so far and one.
    """
    n_kept = n_unopened = number = 0
    while n_kept < n:
        name, kind, data = mutate(sources, seed, number)
        number += 1
        path = folder / name
        path.write_bytes(data)
        opened = opens(path)
        if not opened and n_unopened + 1 > MOST_UNOPENED * (n_kept + 1) + 1:
            path.unlink()
            continue
        n_kept, n_unopened = n_kept + 1, n_unopened + (not opened)
        yield path, kind


def main() -> None:
    """Write the candidates of a seed as they are, opened or not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--numbers", type=int, nargs="+", default=range(200))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "sources").mkdir(exist_ok=True)
    sources = read_sources(arguments.data / "videos", arguments.out / "sources")
    for number in arguments.numbers:
        name, _, data = mutate(sources, arguments.seed, number)
        (arguments.out / name).write_bytes(data)


if __name__ == "__main__":
    main()
