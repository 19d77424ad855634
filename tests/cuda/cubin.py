"""What a cubin says of its kernels: a 64-bit ELF file with a section .nv.info for all of them and one for each."""
import collections
import struct

# registers of a thread; bytes of shared memory of a block, dynamic not counted, and from sm_90 on with the system's 1024; bytes of a thread's
# frame in local memory: what was spilled, and arrays that are not in registers; most threads of a block
Kernel = collections.namedtuple("Kernel", "registers shared frame threads")
_MAX_THREADS, _FRAME, _REGISTERS = 0x05, 0x11, 0x2F  # attributes of .nv.info
_SIZED = 0x04  # the format of an attribute whose value follows, with its size before it


def _sections(data):
    table, size, count, names = struct.unpack_from("<Q", data, 0x28)[0], *struct.unpack_from("<HHH", data, 0x3A)
    rows = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * size) for i in range(count)]

    def text(section, at):
        start = rows[section][4] + at
        return data[start:data.index(b"\0", start)].decode()

    return [(text(names, row[0]), row) for row in rows], text


def _attributes(data, row):
    at, end = row[4], row[4] + row[5]
    while at < end:
        form, attribute, size = data[at], data[at + 1], struct.unpack_from("<H", data, at + 2)[0]
        if form == _SIZED:
            yield attribute, data[at + 4:at + 4 + size]
        at += 4 + (size if form == _SIZED else 0)


def kernels(data):
    """name -> Kernel"""
    assert data[:5] == b"\x7fELF\x02"
    sections, text = _sections(data)
    by_name = dict(sections)
    row = by_name[".symtab"]
    symbols = [text(row[6], struct.unpack_from("<I", data, at)[0]) for at in range(row[4], row[4] + row[5], 24)]
    found = {name.removeprefix(".text."): {"shared": 0, "frame": 0} for name in by_name if name.startswith(".text.")}
    for attribute, value in _attributes(data, by_name[".nv.info"]):
        if attribute in (_FRAME, _REGISTERS):
            symbol, number = struct.unpack("<II", value)
            if symbols[symbol] in found:
                found[symbols[symbol]]["frame" if attribute == _FRAME else "registers"] = number
    for name, kernel in found.items():
        for attribute, value in _attributes(data, by_name[f".nv.info.{name}"]):
            if attribute == _MAX_THREADS:
                kernel["threads"] = struct.unpack("<III", value)[0]
        if f".nv.shared.{name}" in by_name:
            kernel["shared"] = by_name[f".nv.shared.{name}"][5]
    return {name: Kernel(**kernel) for name, kernel in found.items()}
