//! Kernel type information (BTF): where a member of a kernel structure lies, and what a raw tracepoint passes.
//!
//! Bytes in, answers out. Knows no file names and no kernel versions: whoever has read `/sys/kernel/btf/vmlinux`
//! hands the bytes to [`Btf::parse`], and those of a module, on top of it, to [`Btf::parse_split`].
//!
//! Format: `include/uapi/linux/btf.h` and `Documentation/bpf/btf.rst` of the kernel sources. Little-endian only,
//! because vfprobe supports x86-64 only.

mod lookup;
mod section;
#[cfg(test)]
mod tests;

use section::Section;
use std::sync::Arc;

/// Type information of a kernel, or of one module together with the kernel it belongs to. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Btf {
    section: Arc<Section>,
}

/// Where a member lies in its structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Bytes from the start of the outermost structure.
    pub offset: u32,
    /// Its size in bytes; flexible arrays have 0. `None` when the type has no known size.
    pub size: Option<u32>,
}

/// A parameter of a raw tracepoint, in the order of `ctx.arg::<T>(n)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its name, where the compiler kept it. Prototypes behind pointers mostly lose theirs.
    pub name: Option<String>,
    /// Its type as C writes it, such as `struct kvm_vcpu *`.
    pub type_name: String,
}

/// Why the bytes give no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// The bytes do not start with a BTF header for this byte order.
    #[error("not little-endian BTF: {0}")]
    Header(&'static str),
    /// A table or record reaches past the end of what holds it, or points nowhere.
    #[error("malformed BTF at byte {at}: {what}")]
    Malformed {
        /// Byte offset in the input.
        at: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// A kind that this program does not know; what follows it cannot be found.
    #[error("BTF type {id} has the unknown kind {kind}")]
    UnknownKind {
        /// Type id.
        id: u32,
        /// The kind.
        kind: u32,
    },
    /// A reference to a type that does not exist.
    #[error("BTF refers to type {0}, which does not exist")]
    NoSuchId(u32),
    /// Types refer to each other in a circle, or are nested deeper than any real ones.
    #[error("BTF type {0} is nested in itself or too deeply")]
    TooDeep(u32),
    /// No type of that name.
    #[error("no {what} {name:?} in this kernel's BTF")]
    NotFound {
        /// `struct`, `enum` or `raw tracepoint`.
        what: &'static str,
        /// The name asked for.
        name: String,
    },
    /// The structure exists and has no such member.
    #[error("struct {strct} has no member {path}")]
    NoMember {
        /// The structure.
        strct: String,
        /// The dotted path asked for.
        path: String,
    },
    /// The member is a bit field, which has no byte offset.
    #[error("{path} of struct {strct} is a bit field")]
    BitField {
        /// The structure.
        strct: String,
        /// The dotted path asked for.
        path: String,
    },
    /// Several structures of that name place the member differently.
    #[error("several structs {strct} place {path} differently")]
    Ambiguous {
        /// The structure.
        strct: String,
        /// The dotted path asked for.
        path: String,
    },
}

impl Btf {
    /// Parses a kernel's own type information.
    ///
    /// # Errors
    /// [`BtfError`] when the bytes are not complete and well formed BTF.
    pub fn parse(bytes: impl Into<Vec<u8>>) -> Result<Self, BtfError> {
        Section::parse(bytes.into(), None).map(|section| Self { section: Arc::new(section) })
    }

    /// Parses a module's type information, which continues the type ids and strings of the kernel's.
    /// Answers come from the module first, then from the kernel.
    ///
    /// # Errors
    /// [`BtfError`] when the bytes are not complete and well formed BTF.
    pub fn parse_split(base: &Self, bytes: impl Into<Vec<u8>>) -> Result<Self, BtfError> {
        Section::parse(bytes.into(), Some(Arc::clone(&base.section)))
            .map(|section| Self { section: Arc::new(section) })
    }

    /// Byte offset of a member, by dotted path (`pid`, `irq_data.irq`). Anonymous structures and unions are
    /// looked through; a path does not follow pointers.
    ///
    /// # Errors
    /// [`BtfError::NotFound`], [`BtfError::NoMember`], [`BtfError::BitField`] or [`BtfError::Ambiguous`].
    pub fn offset_of(&self, strct: &str, path: &str) -> Result<u32, BtfError> {
        self.member(strct, path).map(|member| member.offset)
    }

    /// Offset and size of a member, as [`Btf::offset_of`] finds it.
    ///
    /// # Errors
    /// As [`Btf::offset_of`].
    pub fn member(&self, strct: &str, path: &str) -> Result<Member, BtfError> {
        lookup::member(&self.section, strct, path)
    }

    /// Names and values of an enumeration of 32-bit values, in its order.
    ///
    /// # Errors
    /// [`BtfError::NotFound`] when this kernel or module has none of that name.
    pub fn enumerators(&self, name: &str) -> Result<Vec<(String, u32)>, BtfError> {
        lookup::enumerators(&self.section, name)
    }

    /// What the raw tracepoint passes to a program: the prototype behind `btf_trace_<event>`, without its
    /// leading `void *__data`.
    ///
    /// # Errors
    /// [`BtfError::NotFound`] when this kernel or module has no such event.
    pub fn raw_tracepoint(&self, event: &str) -> Result<Vec<Param>, BtfError> {
        lookup::raw_tracepoint(&self.section, event)
    }

    /// What a function of the kernel takes, by its name.
    ///
    /// # Errors
    /// [`BtfError::NotFound`] when this kernel or module has no such function, or it was inlined everywhere.
    pub fn function(&self, name: &str) -> Result<Vec<Param>, BtfError> {
        lookup::function(&self.section, name)
    }
}
