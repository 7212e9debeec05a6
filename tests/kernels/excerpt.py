#!/usr/bin/env python3
"""Makes a fixture of a kernel's type information: excerpt.py RELEASE VMLINUZ-OR-BTF [MODULE...]

Writes RELEASE.btf, a small valid BTF blob with what vfprobe asks for (raw tracepoints' prototypes and the structures
of probe-ebpf/src/layout.rs, with all their members, taken unchanged from the kernel's own), and RELEASE.formats, the
classic tracepoints' records in the form of their `format` files, made from the kernel's `trace_event_raw_*` structures.
MODULEs are kvm.ko and the like, compressed or not. Needs python 3 alone, and zstd for kernels packed with it.
"""
import lzma, pathlib, re, struct, subprocess, sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, PROTO = range(1, 14)
VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(14, 20)


def wanted():
    """Structures, raw tracepoints and records that the sources name."""
    layout = (ROOT / "probe-ebpf/src/layout.rs").read_text()
    members = re.findall(r'member\(\s*"(\w+)",\s*"([\w.]+)"', layout)
    records = dict.fromkeys(re.findall(r'field\(\s*"([\w/]+)"', layout))
    hooks = {}
    for source in sorted((ROOT / "probe-user/src/probes").rglob("*.rs")):
        hooks.update(dict.fromkeys(re.findall(r'"([a-z_]+/[a-z_0-9]+)"', source.read_text())))
    return members, list(records), list(hooks)


def held(btf, i, path):
    """Names of the structures that hold what a dotted path leads to."""
    _, info, value, more = btf.type(i)
    kind = info >> 24 & 31
    if kind in (TYPEDEF, CONST, VOLATILE, TYPE_TAG):
        return held(btf, value, path)
    if kind not in (STRUCT, UNION):
        return set()
    found = {btf.string(btf.type(i)[0])}
    for n in range(0, len(more), 3):
        name = btf.string(more[n])
        if name == path[0] and len(path) > 1:
            return found | held(btf, more[n + 1], path[1:])
        if not name:
            found |= held(btf, more[n + 1], path) - {""}
    return found


def elf_section(image, name):
    shoff, = struct.unpack_from("<Q", image, 0x28)
    size, count, names = struct.unpack_from("<HHH", image, 0x3A)
    header = lambda i: struct.unpack_from("<IIQQQQ", image, shoff + i * size)
    strings = header(names)[4]
    for i in range(count):
        at, _, _, _, offset, length = header(i)
        if image[strings + at : image.index(b"\0", strings + at)] == name:
            return image[offset : offset + length]
    return None


def unpacked(path):
    """The ELF file or BTF blob in a file, however it is packed."""
    data = pathlib.Path(path).read_bytes()
    if data[:4] == b"\x7fELF" or data[:2] == b"\x9f\xeb":
        return data
    for magic, unpack in [
        (b"\xfd7zXZ\0", lambda d: lzma.LZMADecompressor().decompress(d)),
        (b"\x28\xb5\x2f\xfd", lambda d: subprocess.run(["zstd", "-dcq"], input=d, capture_output=True).stdout),
    ]:
        at = data.find(magic)
        while at >= 0:
            try:
                found = unpack(data[at:])
            except lzma.LZMAError:
                found = b""
            if found[:4] == b"\x7fELF":
                return found
            at = data.find(magic, at + 1)
    sys.exit(f"{path}: neither an ELF file nor one packed by xz or zstd")


class Btf:
    def __init__(self, blob, base=None):
        _, _, _, head, toff, tlen, soff, slen = struct.unpack_from("<HBBIIIII", blob)
        self.base, self.strings = base, blob[head + soff : head + soff + slen]
        self.first_string = base.first_string + len(base.strings) if base else 0
        self.first = base.first + len(base.types) if base else 1
        self.types, at, end = [], head + toff, head + toff + tlen
        while at < end:
            name, info, value = struct.unpack_from("<III", blob, at)
            kind, vlen = info >> 24 & 31, info & 0xFFFF
            words = {INT: 1, ARRAY: 3, STRUCT: 3 * vlen, UNION: 3 * vlen, ENUM: 2 * vlen, PROTO: 2 * vlen, VAR: 1,
                     DATASEC: 3 * vlen, DECL_TAG: 1, ENUM64: 3 * vlen}.get(kind, 0)
            more = struct.unpack_from(f"<{words}I", blob, at + 12)
            self.types.append((name, info, value, more))
            at += 12 + 4 * words

    def type(self, i):
        return self.types[i - self.first] if i >= self.first else self.base.type(i)

    def string(self, at):
        if at < self.first_string:
            return self.base.string(at)
        at -= self.first_string
        return self.strings[at : self.strings.index(b"\0", at)].decode()

    def named(self, name, kinds):
        return [i for i, t in enumerate(self.types, self.first)
                if t[1] >> 24 & 31 in kinds and t[0] and self.string(t[0]) == name]


class Excerpt:
    """Types copied one by one. A named structure that is only held or pointed to is kept without its members."""

    def __init__(self, whole):
        self.whole = whole
        self.types, self.strings, self.known, self.strings_known = [], bytearray(1), {}, {"": 0}

    def string(self, text):
        if text not in self.strings_known:
            self.strings_known[text] = len(self.strings)
            self.strings += text.encode() + b"\0"
        return self.strings_known[text]

    def copy(self, btf, i, whole=False, pointed=False):
        if i == 0:
            return 0
        # A module's base is the kernel itself, so ids below its own are the kernel's.
        owner = btf if i >= btf.first else btf.base
        name, info, value, more = btf.type(i)
        kind, text = info >> 24 & 31, btf.string(name)
        full = whole or kind in (STRUCT, UNION) and (not text or text in self.whole and not pointed)
        key = (id(owner), i, full, pointed and kind in (STRUCT, UNION))
        if key in self.known:
            return self.known[key]
        self.types.append(None)
        mine = self.known[key] = len(self.types)
        words = list(more)
        if kind in (STRUCT, UNION):
            if pointed and not full:
                info, value, words = FWD << 24 | (1 << 31 if kind == UNION else 0), 0, []
            elif not full:
                info, words = kind << 24, []
            else:
                for n in range(0, len(words), 3):
                    words[n] = self.string(btf.string(words[n]))
                    words[n + 1] = self.copy(btf, words[n + 1])
        elif kind in (ENUM, ENUM64):
            info, words = kind << 24, []
        elif kind == ARRAY:
            words[0], words[1] = self.copy(btf, words[0]), self.copy(btf, words[1])
        elif kind == PROTO:
            value = self.copy(btf, value)
            for n in range(0, len(words), 2):
                words[n] = self.string(btf.string(words[n]))
                words[n + 1] = self.copy(btf, words[n + 1])
        elif kind == PTR:
            value = self.copy(btf, value, pointed=True)
        elif kind in (TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG):
            value = self.copy(btf, value, pointed=pointed)
        self.types[mine - 1] = struct.pack(f"<III{len(words)}I", self.string(text), info, value, *words)
        return mine

    def blob(self):
        types = b"".join(self.types)
        return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(self.strings)) + types + self.strings


def c_type(btf, i):
    name, info, value, more = btf.type(i) if i else (0, 0, 0, ())
    kind, text = info >> 24 & 31, btf.string(name)
    if kind == PTR:
        return c_type(btf, value) + " *"
    if kind in (CONST, VOLATILE, RESTRICT, TYPE_TAG):
        return c_type(btf, value)
    return {STRUCT: "struct ", UNION: "union ", ENUM: "enum ", FWD: "struct "}.get(kind, "") + (text or "void")


def size(btf, i):
    _, info, value, more = btf.type(i)
    kind = info >> 24 & 31
    if kind == PTR:
        return 8
    if kind == ARRAY:
        return size(btf, more[0]) * more[2]
    return size(btf, value) if kind in (TYPEDEF, CONST, VOLATILE, RESTRICT, TYPE_TAG) else value


def record(btf, i):
    """A record's own fields, as `format` lists them."""
    _, _, _, more = btf.type(i)
    for n in range(0, len(more), 3):
        name, ty, bits = btf.string(more[n]), more[n + 1], more[n + 2] & 0xFFFFFF
        if name in ("ent", "__data"):
            continue
        if name.startswith("__data_loc_"):
            text = "__data_loc char[] " + name[len("__data_loc_") :]
        else:
            _, info, _, array = btf.type(ty)
            is_array = info >> 24 & 31 == ARRAY
            text = f"{c_type(btf, array[0] if is_array else ty)} {name}" + (f"[{array[2]}]" if is_array else "")
        yield f"\tfield:{text};\toffset:{bits // 8};\tsize:{size(btf, ty)};"


def main(release, kernel, *modules):
    image = unpacked(kernel)
    base = Btf(image if image[:2] == b"\x9f\xeb" else elf_section(image, b".BTF"))
    all_btf = [base]
    for module in modules:
        image = unpacked(module)
        blob = image if image[:2] == b"\x9f\xeb" else elf_section(image, b".BTF")
        # Modules have type information since 5.11.
        all_btf += [Btf(blob, base)] if blob else []
    members, records, hooks = wanted()
    roots = [(btf, i, path.split(".")) for name, path in members for btf in all_btf
             for i in btf.named(name, (STRUCT, UNION))]
    excerpt, formats = Excerpt(set().union(*(held(*root) for root in roots)) - {""}), []
    for btf, i, _ in roots:
        excerpt.copy(btf, i, whole=True)
    for event in hooks:
        typedefs = [(btf, i) for btf in all_btf for i in btf.named("btf_trace_" + event.split("/")[1], (TYPEDEF,))]
        if not typedefs:
            continue
        excerpt.copy(*typedefs[0])
        formats.append(f"event {event}")
        if event in records:
            raw = "trace_event_raw_" + event.split("/")[1]
            found = [(btf, i) for btf in all_btf for i in btf.named(raw, (STRUCT,))]
            formats += record(*found[0]) if found else []
    (HERE / f"{release}.btf").write_bytes(excerpt.blob())
    (HERE / f"{release}.formats").write_text("\n".join(formats) + "\n")
    print(f"{release}: {len(excerpt.types)} types, {len(excerpt.blob())} bytes, {len(formats)} lines")


main(*sys.argv[1:])
