//! The tables of one BTF blob: where each type record starts, its fields, its strings, and an index of names.
//!
//! Knows the encoding only; what an answer means is `lookup`'s business.

use super::BtfError;
use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    ops::Range,
    sync::{Arc, OnceLock},
};

const MAGIC: u16 = 0xeb9f;
/// Length of `struct btf_header` in its first version.
const HEADER_LEN: usize = 24;
/// Length of `struct btf_type`.
const TYPE_LEN: usize = 12;

/// `BTF_KIND_*`, as far as questions need to tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Int,
    Ptr,
    Array,
    Struct,
    Union,
    Enum,
    Forward,
    Typedef,
    Volatile,
    Const,
    Restrict,
    Func,
    FuncProto,
    Var,
    DataSec,
    Float,
    DeclTag,
    TypeTag,
    Enum64,
}

impl Kind {
    fn from_number(kind: u32) -> Option<Self> {
        Some(match kind {
            1 => Self::Int,
            2 => Self::Ptr,
            3 => Self::Array,
            4 => Self::Struct,
            5 => Self::Union,
            6 => Self::Enum,
            7 => Self::Forward,
            8 => Self::Typedef,
            9 => Self::Volatile,
            10 => Self::Const,
            11 => Self::Restrict,
            12 => Self::Func,
            13 => Self::FuncProto,
            14 => Self::Var,
            15 => Self::DataSec,
            16 => Self::Float,
            17 => Self::DeclTag,
            18 => Self::TypeTag,
            19 => Self::Enum64,
            _ => return None,
        })
    }

    /// Bytes that follow the record itself.
    fn trailer_len(self, vlen: usize) -> usize {
        match self {
            Self::Int | Self::Var | Self::DeclTag => 4,
            Self::Array => 12,
            Self::Enum | Self::FuncProto => vlen * 8,
            Self::Struct | Self::Union | Self::DataSec | Self::Enum64 => vlen * 12,
            _ => 0,
        }
    }
}

/// One type record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Type {
    pub(super) id: u32,
    pub(super) kind: Kind,
    pub(super) name: u32,
    pub(super) vlen: u32,
    /// `kind_flag`: on structures, member offsets also hold a bit-field size.
    pub(super) flag: bool,
    /// `size` or `type`, by kind.
    pub(super) size_or_type: u32,
    /// Where the trailer starts in the blob.
    trailer: usize,
}

/// One blob, and the one it continues.
pub(super) struct Section {
    bytes: Vec<u8>,
    /// Start of each record in `bytes`, by `id - first_id`.
    starts: Vec<u32>,
    first_id: u32,
    strings: Range<usize>,
    first_string: u32,
    base: Option<Arc<Section>>,
    /// (hash of name, id) of the named structures, unions and typedefs, sorted; made at the first question.
    names: OnceLock<Vec<(u64, u32)>>,
}

/// Some megabytes of bytes help nobody who prints this.
impl fmt::Debug for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Section").field("types", &self.starts.len()).finish_non_exhaustive()
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    at.checked_add(4)
        .and_then(|end| bytes.get(at..end))
        .and_then(|b| b.try_into().ok())
        .map(u32::from_le_bytes)
        .ok_or(BtfError::Malformed { at, what: "four bytes expected" })
}

fn hash(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// The record at `at`; its trailer is not checked.
fn type_at(bytes: &[u8], at: usize, id: u32) -> Result<Type, BtfError> {
    let (name, info, size_or_type) = (u32_at(bytes, at)?, u32_at(bytes, at + 4)?, u32_at(bytes, at + 8)?);
    // The kernel refuses records whose bits 16-23 and 29-30 are not 0 (`btf_check_meta`, kernel/bpf/btf.c), so
    // reading them as part of their neighbours costs nothing and holds should they be put to that use.
    let number = info >> 24 & 0x7f;
    let kind = Kind::from_number(number).ok_or(BtfError::UnknownKind { id, kind: number })?;
    let (vlen, flag) = (info & 0x00ff_ffff, info >> 31 != 0);
    Ok(Type { id, kind, name, vlen, flag, size_or_type, trailer: at + TYPE_LEN })
}

impl Section {
    pub(super) fn parse(bytes: Vec<u8>, base: Option<Arc<Self>>) -> Result<Self, BtfError> {
        match bytes.get(..2) {
            None => return Err(BtfError::Header("too short")),
            Some(magic) if magic != MAGIC.to_le_bytes() => return Err(BtfError::Header("wrong magic")),
            Some(_) => {}
        }
        let header_len = u32_at(&bytes, 4)? as usize;
        if header_len < HEADER_LEN || header_len > bytes.len() {
            return Err(BtfError::Header("impossible header length"));
        }
        let table = |offset_at: usize| -> Result<Range<usize>, BtfError> {
            let offset = u32_at(&bytes, offset_at)? as usize;
            let len = u32_at(&bytes, offset_at + 4)? as usize;
            let start = header_len.saturating_add(offset);
            let end = start.saturating_add(len);
            if end > bytes.len() {
                return Err(BtfError::Malformed { at: offset_at, what: "table reaches past the end" });
            }
            Ok(start..end)
        };
        let (types, strings) = (table(8)?, table(16)?);
        let (first_id, first_string) = match &base {
            None => (1, 0),
            Some(base) => (base.end_id()?, base.end_string()?),
        };

        let mut starts = Vec::with_capacity(types.len() / 24);
        let mut at = types.start;
        while at < types.end {
            let malformed = BtfError::Malformed { at, what: "type record reaches past its table" };
            let id = u32::try_from(starts.len()).ok().and_then(|n| first_id.checked_add(n));
            let t = type_at(&bytes, at, id.ok_or_else(|| malformed.clone())?)?;
            starts.push(u32::try_from(at).map_err(|_| malformed.clone())?);
            at = t.trailer.saturating_add(t.kind.trailer_len(t.vlen as usize));
            if at > types.end {
                return Err(malformed);
            }
        }
        Ok(Self { bytes, starts, first_id, strings, first_string, base, names: OnceLock::new() })
    }

    pub(super) fn base(&self) -> Option<&Self> {
        self.base.as_deref()
    }

    /// The first id that a module on top of this would use.
    fn end_id(&self) -> Result<u32, BtfError> {
        u32::try_from(self.starts.len())
            .ok()
            .and_then(|n| self.first_id.checked_add(n))
            .ok_or(BtfError::Header("too many types"))
    }

    /// The first string offset that a module on top of this would use.
    fn end_string(&self) -> Result<u32, BtfError> {
        u32::try_from(self.strings.len())
            .ok()
            .and_then(|n| self.first_string.checked_add(n))
            .ok_or(BtfError::Header("too many strings"))
    }

    /// The type of that id; `None` for `void`.
    pub(super) fn by_id(&self, id: u32) -> Result<Option<Type>, BtfError> {
        match (id, &self.base) {
            (0, _) => Ok(None),
            (_, Some(base)) if id < self.first_id => base.by_id(id),
            _ => {
                let index = id.checked_sub(self.first_id).ok_or(BtfError::NoSuchId(id))?;
                let start = self.starts.get(index as usize).ok_or(BtfError::NoSuchId(id))?;
                type_at(&self.bytes, *start as usize, id).map(Some)
            }
        }
    }

    /// The string at an offset; empty for anonymous types and members.
    pub(super) fn string(&self, offset: u32) -> Result<&str, BtfError> {
        let bad = |what| BtfError::Malformed { at: offset as usize, what };
        std::str::from_utf8(self.string_bytes(offset)?).map_err(|_| bad("string is not UTF-8"))
    }

    fn string_bytes(&self, offset: u32) -> Result<&[u8], BtfError> {
        if let Some(base) = self.base.as_deref().filter(|_| offset < self.first_string) {
            return base.string_bytes(offset);
        }
        let bad = |what| BtfError::Malformed { at: offset as usize, what };
        let table = self.bytes.get(self.strings.clone()).ok_or_else(|| bad("no string table"))?;
        let own = offset.checked_sub(self.first_string).map(|o| o as usize);
        let rest = own.and_then(|o| table.get(o..)).ok_or_else(|| bad("string offset past its table"))?;
        let len = rest.iter().position(|b| *b == 0).ok_or_else(|| bad("string without an end"))?;
        Ok(&rest[..len])
    }

    /// Word `n` of the record's trailer. Types of the base lie in the base's bytes.
    pub(super) fn trailer_word(&self, t: &Type, n: u32) -> Result<u32, BtfError> {
        match &self.base {
            Some(base) if t.id < self.first_id => base.trailer_word(t, n),
            _ => u32_at(&self.bytes, t.trailer.saturating_add(n as usize * 4)),
        }
    }

    /// Types of this blob (not of its base) with that name, among structures, unions, enumerations and typedefs.
    pub(super) fn named(&self, name: &str) -> Result<Vec<Type>, BtfError> {
        let index = self.names.get_or_init(|| self.index_names());
        let wanted = hash(name.as_bytes());
        let first = index.partition_point(|(hash, _)| *hash < wanted);
        let mut found = Vec::new();
        for (_, id) in index[first..].iter().take_while(|(hash, _)| *hash == wanted) {
            if let Some(t) = self.by_id(*id)?
                && self.string_bytes(t.name)? == name.as_bytes()
            {
                found.push(t);
            }
        }
        Ok(found)
    }

    /// The function of this blob (not of its base) with that name. Functions are most of a kernel's names and one or two
    /// are asked for: they are looked through, not indexed.
    pub(super) fn function(&self, name: &str) -> Option<Type> {
        (self.first_id..)
            .zip(&self.starts)
            .filter_map(|(id, start)| type_at(&self.bytes, *start as usize, id).ok())
            .find(|t| {
                t.kind == Kind::Func && self.string_bytes(t.name).is_ok_and(|found| found == name.as_bytes())
            })
    }

    /// A record whose name cannot be read has none to be found by; other records stay usable.
    fn index_names(&self) -> Vec<(u64, u32)> {
        let mut index: Vec<(u64, u32)> = (self.first_id..)
            .zip(&self.starts)
            .filter_map(|(id, start)| type_at(&self.bytes, *start as usize, id).ok())
            .filter(|t| t.name != 0)
            .filter(|t| matches!(t.kind, Kind::Struct | Kind::Union | Kind::Enum | Kind::Typedef))
            .filter_map(|t| Some((hash(self.string_bytes(t.name).ok()?), t.id)))
            .collect();
        index.sort_unstable();
        index
    }
}
