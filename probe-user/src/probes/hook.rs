//! A hook: an event in the kernel, or a function that returns, and the programs that can be attached to it, best first.
//!
//! Pure: which variants fit a kernel is decided from its facts alone; attaching may still fail and is done elsewhere.

use super::KernelFacts;
use crate::btf::Param;

/// An event and the programs for it.
#[derive(Debug)]
pub struct Hook {
    /// `system/event`; of a function `fexit/name`.
    pub event: &'static str,
    /// Whether its probe can do without.
    pub role: Role,
    /// The program for the raw tracepoint, the cheaper way; of a function the only one, which runs when it returns.
    pub raw: Option<Variant>,
    /// The program for the classic tracepoint, whose record is described by `format`.
    pub classic: Option<Variant>,
}

/// What a hook is to its probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Without it the probe cannot work.
    Required,
    /// Without it the named figure is not observable.
    Figure(&'static str),
}

/// One program for a hook.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// The program.
    pub program: &'static str,
    /// Globals that must be known.
    pub needs: &'static [&'static str],
    /// Whether the raw tracepoint's arguments are those the program expects.
    pub fits: fn(&[Param]) -> bool,
}

/// Any arguments will do.
pub fn any(_: &[Param]) -> bool {
    true
}

/// A raw tracepoint program.
#[must_use]
pub const fn raw(program: &'static str, needs: &'static [&'static str]) -> Option<Variant> {
    Some(Variant { program, needs, fits: any })
}

/// A classic tracepoint program.
#[must_use]
pub const fn classic(program: &'static str, needs: &'static [&'static str]) -> Option<Variant> {
    Some(Variant { program, needs, fits: any })
}

/// The program type of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `BPF_PROG_TYPE_RAW_TRACEPOINT`.
    Raw,
    /// `BPF_PROG_TYPE_TRACEPOINT`.
    Classic,
    /// `BPF_TRACE_FEXIT`: where the kernel can patch its functions, which is not everywhere.
    Return,
}

impl Kind {
    /// The word for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw tracepoint",
            Self::Classic => "tracepoint",
            Self::Return => "fexit",
        }
    }
}

/// A program that can be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its type.
    pub kind: Kind,
    /// Its name.
    pub program: &'static str,
}

impl Hook {
    /// The event's name without its system.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.event.split_once('/').map_or(self.event, |(_, name)| name)
    }

    /// Whether it is no event, but the return of a function.
    #[must_use]
    pub fn is_return(&self) -> bool {
        self.event.starts_with("fexit/")
    }

    /// The programs that fit this kernel, best first; none comes with the reason.
    pub fn candidates(&self, facts: &KernelFacts) -> Result<Vec<Candidate>, String> {
        let mut found = Vec::new();
        let mut reasons = Vec::new();
        let first = if self.is_return() { Kind::Return } else { Kind::Raw };
        for (kind, variant) in [(first, self.raw), (Kind::Classic, self.classic)] {
            let Some(variant) = variant else { continue };
            match facts.objection(self, kind, &variant) {
                None => found.push(Candidate { kind, program: variant.program }),
                Some(reason) => reasons.push(format!("{}: {reason}", kind.as_str())),
            }
        }
        if found.is_empty() { Err(reasons.join("; ")) } else { Ok(found) }
    }
}
