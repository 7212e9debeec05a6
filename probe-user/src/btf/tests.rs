//! Tests of BTF parsing: a small hand-built blob, a module on top of it, damaged bytes, and this machine's kernel.

use super::{Btf, BtfError, Member};
use proptest::prelude::*;

/// Writes BTF as `include/uapi/linux/btf.h` describes it. Independent of the reader under test.
struct Blob {
    types: Vec<u8>,
    strings: Vec<u8>,
    first_string: u32,
    next_id: u32,
}

const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const CONST: u32 = 10;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;

impl Blob {
    fn base() -> Self {
        Self { types: Vec::new(), strings: vec![0], first_string: 0, next_id: 1 }
    }

    fn on_top_of(base: &Self) -> Self {
        let first_string = u32::try_from(base.strings.len()).unwrap();
        Self { types: Vec::new(), strings: vec![0], first_string, next_id: base.next_id }
    }

    fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = self.first_string + u32::try_from(self.strings.len()).unwrap();
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        at
    }

    fn words(&mut self, words: &[u32]) {
        words.iter().for_each(|w| self.types.extend_from_slice(&w.to_le_bytes()));
    }

    fn ty(&mut self, name: &str, kind: u32, vlen: u32, size_or_type: u32) -> u32 {
        let name = self.string(name);
        self.words(&[name, kind << 24 | vlen, size_or_type]);
        self.next_id += 1;
        self.next_id - 1
    }

    fn int(&mut self, name: &str, bytes: u32) -> u32 {
        let id = self.ty(name, INT, 0, bytes);
        self.words(&[bytes * 8]);
        id
    }

    /// A structure or union of (name, type, bit offset); `kind` may carry the flag in bit 7.
    fn composite(&mut self, name: &str, kind: u32, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        let id = self.ty(name, kind, u32::try_from(members.len()).unwrap(), size);
        for (member, type_id, offset) in members {
            let member = self.string(member);
            self.words(&[member, *type_id, *offset]);
        }
        id
    }

    fn finish(&self) -> Vec<u8> {
        let len = |v: &[u8]| u32::try_from(v.len()).unwrap();
        let mut out = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, len(&self.types), len(&self.types), len(&self.strings)] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&self.types);
        out.extend_from_slice(&self.strings);
        out
    }
}

const FLAG: u32 = 1 << 7;

fn sample() -> Blob {
    let mut b = Blob::base();
    let u32_id = b.int("unsigned int", 4);
    let char_id = b.int("char", 1);
    let inner = b.composite("inner", STRUCT, 8, &[("a", u32_id, 0), ("b", u32_id, 32)]);
    let inner_alias = b.ty("inner_t", TYPEDEF, 0, inner);
    let const_inner = b.ty("", CONST, 0, inner_alias);
    let anonymous_struct = b.composite("", STRUCT, 8, &[("x", u32_id, 0), ("y", u32_id, 32)]);
    let anonymous = b.composite("", UNION, 8, &[("whole", inner, 0), ("", anonymous_struct, 0)]);
    let name_array = b.ty("", ARRAY, 0, 0);
    b.words(&[char_id, u32_id, 16]);
    let outer_ptr = b.ty("", PTR, 0, b.next_id + 1);
    b.composite(
        "outer",
        STRUCT,
        48,
        &[
            ("first", u32_id, 0),
            ("kept", const_inner, 64),
            ("", anonymous, 128),
            ("name", name_array, 192),
            ("next", outer_ptr, 320),
        ],
    );
    b.composite("flags", STRUCT | FLAG, 8, &[("low", u32_id, 3 << 24), ("high", u32_id, 32)]);
    b.composite("twice", STRUCT, 8, &[("same", u32_id, 32), ("moved", u32_id, 0)]);
    b.composite("twice", STRUCT, 8, &[("same", u32_id, 32), ("moved", u32_id, 32), ("only", u32_id, 0)]);
    b.ty("reason", ENUM, 0, 4);
    b.ty("reason", ENUM, 2, 4);
    let [none, full] = ["REASON_NONE", "REASON_FULL"].map(|name| b.string(name));
    b.words(&[none, 0, full, 7]);
    b
}

/// A module: its own structure around one of the kernel's, a recursive one, and a tracepoint.
fn module(base: &Blob) -> Blob {
    let mut m = Blob::on_top_of(base);
    let (u32_id, inner) = (1, 3);
    let apic = m.composite("kvm_lapic", STRUCT, 16, &[("base", u32_id, 0), ("in", inner, 64)]);
    let apic_ptr = m.ty("", PTR, 0, apic);
    let void_ptr = m.ty("", PTR, 0, 0);
    let proto = m.ty("", FUNC_PROTO, 3, 0);
    let vector = m.string("vector");
    m.words(&[0, void_ptr, 0, apic_ptr, vector, u32_id]);
    let proto_ptr = m.ty("", PTR, 0, proto);
    m.ty("btf_trace_kvm_eoi", TYPEDEF, 0, proto_ptr);
    m.ty("kvm_set_eoi", FUNC, 0, proto);
    let own_id = m.next_id;
    m.composite("circle", STRUCT, 4, &[("", own_id, 0), ("", own_id, 0)]);
    m
}

#[test]
fn enumerators_have_names_and_values() {
    let base = sample();
    let kernel = Btf::parse(base.finish()).unwrap();
    let expected = vec![("REASON_NONE".to_owned(), 0), ("REASON_FULL".to_owned(), 7)];
    assert_eq!(kernel.enumerators("reason"), Ok(expected.clone()));
    let module = Btf::parse_split(&kernel, module(&base).finish()).unwrap();
    assert_eq!(module.enumerators("reason"), Ok(expected));
    let missing = BtfError::NotFound { what: "enum", name: "outer".into() };
    assert_eq!(kernel.enumerators("outer"), Err(missing));
}

#[test]
fn members_are_found_by_path() {
    let btf = Btf::parse(sample().finish()).unwrap();
    for (strct, path, offset, size) in [
        ("outer", "first", 0, 4),
        ("outer", "kept", 8, 8),
        ("outer", "kept.b", 12, 4),
        ("outer", "whole.b", 20, 4),
        ("outer", "y", 20, 4),
        ("outer", "name", 24, 16),
        ("outer", "next", 40, 8),
        ("flags", "high", 4, 4),
        ("twice", "same", 4, 4),
        ("twice", "only", 0, 4),
    ] {
        assert_eq!(
            btf.member(strct, path),
            Ok(Member { offset, size: Some(size) }),
            "offset of {path} in {strct}"
        );
    }
}

#[test]
fn questions_without_an_answer_name_the_reason() {
    let btf = Btf::parse(sample().finish()).unwrap();
    for (strct, path, message) in [
        ("absent", "x", "no struct \"absent\" in this kernel's BTF"),
        ("inner_t", "a", "no struct \"inner_t\" in this kernel's BTF"),
        ("outer", "absent", "struct outer has no member absent"),
        ("outer", "", "struct outer has no member "),
        ("outer", "kept.", "struct outer has no member kept."),
        ("outer", "first.x", "struct outer has no member first.x"),
        ("outer", "next.first", "struct outer has no member next.first"),
        ("flags", "low", "low of struct flags is a bit field"),
        ("twice", "moved", "several structs twice place moved differently"),
    ] {
        assert_eq!(btf.offset_of(strct, path).unwrap_err().to_string(), message);
    }
    assert_eq!(
        btf.raw_tracepoint("kvm_eoi").unwrap_err().to_string(),
        "no raw tracepoint \"kvm_eoi\" in this kernel's BTF"
    );
}

#[test]
fn a_module_continues_the_kernel() {
    let blob = sample();
    let base = Btf::parse(blob.finish()).unwrap();
    let split = Btf::parse_split(&base, module(&blob).finish()).unwrap();
    assert_eq!(split.offset_of("kvm_lapic", "in.b"), Ok(12));
    assert_eq!(split.offset_of("outer", "kept.b"), Ok(12));
    assert!(base.offset_of("kvm_lapic", "base").is_err());
    let params = split.raw_tracepoint("kvm_eoi").unwrap();
    let text: Vec<String> =
        params.iter().map(|p| format!("{}:{}", p.name.as_deref().unwrap_or("-"), p.type_name)).collect();
    assert_eq!(text, ["-:struct kvm_lapic *", "vector:unsigned int"]);
    // The same prototype, of which a tracepoint's first parameter is its own affair.
    let types: Vec<String> =
        split.function("kvm_set_eoi").unwrap().into_iter().map(|p| p.type_name).collect();
    assert_eq!(types, ["void *", "struct kvm_lapic *", "unsigned int"]);
    let missing = BtfError::NotFound { what: "function", name: "kvm_set_eoi".into() };
    assert_eq!(base.function("kvm_set_eoi"), Err(missing));
    assert!(matches!(split.offset_of("circle", "x"), Err(BtfError::TooDeep(_))));
}

#[test]
fn what_is_not_btf_is_refused() {
    let good = sample().finish();
    let mut wrong_order = good.clone();
    wrong_order.swap(0, 1);
    let mut unknown_kind = good.clone();
    unknown_kind[24 + 7] = 77;
    for (bytes, message) in [
        (Vec::new(), "not little-endian BTF: too short"),
        (wrong_order, "not little-endian BTF: wrong magic"),
        (good[..20].to_vec(), "not little-endian BTF: impossible header length"),
        (good[..6].to_vec(), "malformed BTF at byte 4: four bytes expected"),
        (good[..good.len() - 1].to_vec(), "malformed BTF at byte 16: table reaches past the end"),
        (unknown_kind, "BTF type 1 has the unknown kind 77"),
    ] {
        assert_eq!(Btf::parse(bytes).unwrap_err().to_string(), message);
    }
}

/// Asks everything of bytes that may be damaged; the answers do not matter, that there are some does.
fn interrogate(base: &[u8], module: &[u8]) {
    let Ok(base) = Btf::parse(base) else { return };
    let layers = [Some(base.clone()), Btf::parse_split(&base, module).ok()];
    for btf in layers.iter().flatten() {
        for strct in ["outer", "flags", "twice", "kvm_lapic", "circle"] {
            for path in ["kept.b", "y", "low", "in.b", "x", "name"] {
                let _ = btf.member(strct, path);
            }
        }
        let _ = btf.raw_tracepoint("kvm_eoi");
        let _ = btf.function("kvm_set_eoi");
    }
}

proptest! {
    #[test]
    fn damaged_bytes_never_panic(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        in_module in any::<bool>(),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let blob = sample();
        let mut pair = [blob.finish(), module(&blob).finish()];
        let damaged = &mut pair[usize::from(in_module)];
        for (at, byte) in edits {
            let at = at.index(damaged.len());
            damaged[at] = byte;
        }
        if let Some(cut) = cut {
            damaged.truncate(cut.index(damaged.len()));
        }
        interrogate(&pair[0], &pair[1]);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut with_magic = vec![0x9f, 0xeb, 1, 0, 24, 0, 0, 0];
        with_magic.extend_from_slice(&bytes);
        interrogate(&bytes, &with_magic);
        interrogate(&with_magic, &bytes);
    }
}
