//! Questions to BTF: where a member lies, and what a raw tracepoint passes.
//!
//! Knows types, not bytes. Every walk is bounded, so that malformed input ends in an error and not in a loop.

use super::{
    BtfError, Member, Param,
    section::{Kind, Section, Type},
};

/// No real type is wrapped in more typedefs, qualifiers or anonymous structures than this.
const MAX_DEPTH: u32 = 32;
/// Members looked at for one path component. `struct task_struct`, the largest, has some 300 members in all.
const MAX_MEMBERS: u32 = 100_000;
/// Bytes of a pointer on x86-64.
const POINTER_SIZE: u32 = 8;

/// A member while a path is followed: bits from the start of the outermost structure.
struct Found {
    bits: u32,
    bit_field: bool,
    type_id: u32,
}

pub(super) fn member(section: &Section, strct: &str, path: &str) -> Result<Member, BtfError> {
    let no_member = || BtfError::NoMember { strct: strct.to_owned(), path: path.to_owned() };
    let mut candidates = structs(section, strct)?;
    if candidates.is_empty()
        && let Some(base) = section.base()
    {
        candidates = structs(base, strct)?;
    }
    if candidates.is_empty() {
        return Err(BtfError::NotFound { what: "struct", name: strct.to_owned() });
    }
    // Different source files may define different structures of one name. Those without the member are not
    // meant; the others must agree.
    let mut answer = None;
    for candidate in candidates {
        let Some(found) = follow(section, candidate, path)? else { continue };
        if found.bit_field || found.bits % 8 != 0 {
            return Err(BtfError::BitField { strct: strct.to_owned(), path: path.to_owned() });
        }
        let member = Member { offset: found.bits / 8, size: size_of(section, found.type_id)? };
        match answer {
            None => answer = Some(member),
            Some(earlier) if earlier == member => {}
            Some(_) => {
                return Err(BtfError::Ambiguous { strct: strct.to_owned(), path: path.to_owned() });
            }
        }
    }
    answer.ok_or_else(no_member)
}

pub(super) fn raw_tracepoint(section: &Section, event: &str) -> Result<Vec<Param>, BtfError> {
    let name = format!("btf_trace_{event}");
    let mut layer = Some(section);
    while let Some(searched) = layer {
        for typedef in searched.named(&name)?.iter().filter(|t| t.kind == Kind::Typedef) {
            if let Some(ptr) = section.by_id(typedef.size_or_type)?
                && ptr.kind == Kind::Ptr
                && let Some(proto) = section.by_id(ptr.size_or_type)?
                && proto.kind == Kind::FuncProto
            {
                return (1..proto.vlen).map(|n| param(section, &proto, n)).collect();
            }
        }
        layer = searched.base();
    }
    Err(BtfError::NotFound { what: "raw tracepoint", name: event.to_owned() })
}

pub(super) fn function(section: &Section, name: &str) -> Result<Vec<Param>, BtfError> {
    let mut layer = Some(section);
    while let Some(searched) = layer {
        if let Some(function) = searched.function(name)
            && let Some(proto) = section.by_id(function.size_or_type)?
            && proto.kind == Kind::FuncProto
        {
            return (0..proto.vlen).map(|n| param(section, &proto, n)).collect();
        }
        layer = searched.base();
    }
    Err(BtfError::NotFound { what: "function", name: name.to_owned() })
}

pub(super) fn enumerators(section: &Section, name: &str) -> Result<Vec<(String, u32)>, BtfError> {
    let mut layer = Some(section);
    while let Some(searched) = layer {
        // An empty one is a declaration without its values.
        let found = searched.named(name)?.into_iter().find(|t| t.kind == Kind::Enum && t.vlen > 0);
        if let Some(t) = found {
            let one = |n| {
                let name = section.string(section.trailer_word(&t, n * 2)?)?;
                Ok((name.to_owned(), section.trailer_word(&t, n * 2 + 1)?))
            };
            return (0..t.vlen).map(one).collect();
        }
        layer = searched.base();
    }
    Err(BtfError::NotFound { what: "enum", name: name.to_owned() })
}

fn structs(section: &Section, name: &str) -> Result<Vec<Type>, BtfError> {
    let mut found = section.named(name)?;
    found.retain(|t| matches!(t.kind, Kind::Struct | Kind::Union));
    Ok(found)
}

fn param(section: &Section, proto: &Type, n: u32) -> Result<Param, BtfError> {
    let name = section.string(section.trailer_word(proto, n * 2)?)?;
    let type_name = type_name(section, section.trailer_word(proto, n * 2 + 1)?)?;
    Ok(Param { name: (!name.is_empty()).then(|| name.to_owned()), type_name })
}

/// Follows a dotted path from a structure; `None` when a component does not exist.
fn follow(section: &Section, strct: Type, path: &str) -> Result<Option<Found>, BtfError> {
    let mut found = Found { bits: 0, bit_field: false, type_id: strct.id };
    for component in path.split('.') {
        let Some(inner) = unwrapped(section, found.type_id)? else { return Ok(None) };
        if component.is_empty() || !matches!(inner.kind, Kind::Struct | Kind::Union) {
            return Ok(None);
        }
        let mut budget = MAX_MEMBERS;
        let Some(next) = component_of(section, &inner, component, 0, &mut budget)? else { return Ok(None) };
        let bits = found.bits.checked_add(next.bits).ok_or(BtfError::TooDeep(inner.id))?;
        found = Found { bits, ..next };
    }
    Ok(Some(found))
}

/// A member by name, also inside anonymous structures and unions.
fn component_of(
    section: &Section,
    strct: &Type,
    wanted: &str,
    depth: u32,
    budget: &mut u32,
) -> Result<Option<Found>, BtfError> {
    if depth > MAX_DEPTH {
        return Err(BtfError::TooDeep(strct.id));
    }
    for n in 0..strct.vlen {
        *budget = budget.checked_sub(1).ok_or(BtfError::TooDeep(strct.id))?;
        let name = section.string(section.trailer_word(strct, n * 3)?)?;
        if !name.is_empty() && name != wanted {
            continue;
        }
        let type_id = section.trailer_word(strct, n * 3 + 1)?;
        let offset = section.trailer_word(strct, n * 3 + 2)?;
        // With `kind_flag` the top byte holds the size of a bit field, 0 for ordinary members.
        let (bits, mut bit_field) =
            if strct.flag { (offset & 0x00ff_ffff, offset >> 24 != 0) } else { (offset, false) };
        let Some(inner) = unwrapped(section, type_id)? else { continue };
        if name == wanted {
            bit_field |= is_partial_int(section, &inner)?;
            return Ok(Some(Found { bits, bit_field, type_id }));
        }
        if matches!(inner.kind, Kind::Struct | Kind::Union)
            && let Some(found) = component_of(section, &inner, wanted, depth + 1, budget)?
        {
            let bits = bits.checked_add(found.bits).ok_or(BtfError::TooDeep(strct.id))?;
            return Ok(Some(Found { bits, ..found }));
        }
    }
    Ok(None)
}

/// Without `kind_flag`, a bit field is an integer type that uses only part of its bytes.
fn is_partial_int(section: &Section, t: &Type) -> Result<bool, BtfError> {
    if t.kind != Kind::Int {
        return Ok(false);
    }
    let encoding = section.trailer_word(t, 0)?;
    let (bits, shift) = (encoding & 0xff, encoding >> 16 & 0xff);
    Ok(shift != 0 || Some(bits) != t.size_or_type.checked_mul(8))
}

/// The type behind typedefs, qualifiers and tags; `None` for `void`.
fn unwrapped(section: &Section, id: u32) -> Result<Option<Type>, BtfError> {
    let mut next = id;
    for _ in 0..MAX_DEPTH {
        let Some(t) = section.by_id(next)? else { return Ok(None) };
        match t.kind {
            Kind::Typedef | Kind::Volatile | Kind::Const | Kind::Restrict | Kind::TypeTag => {
                next = t.size_or_type;
            }
            _ => return Ok(Some(t)),
        }
    }
    Err(BtfError::TooDeep(id))
}

/// Size in bytes; `None` for types without one.
fn size_of(section: &Section, id: u32) -> Result<Option<u32>, BtfError> {
    let (mut id, mut count) = (id, 1u32);
    for _ in 0..MAX_DEPTH {
        let Some(t) = unwrapped(section, id)? else { return Ok(None) };
        let size = match t.kind {
            Kind::Array => {
                id = section.trailer_word(&t, 0)?;
                count = count.checked_mul(section.trailer_word(&t, 2)?).ok_or(BtfError::TooDeep(t.id))?;
                continue;
            }
            Kind::Ptr => POINTER_SIZE,
            Kind::Int | Kind::Struct | Kind::Union | Kind::Enum | Kind::Float | Kind::Enum64 => {
                t.size_or_type
            }
            _ => return Ok(None),
        };
        return Ok(size.checked_mul(count));
    }
    Err(BtfError::TooDeep(id))
}

/// A type as C writes it. Function pointers, which no caller tells apart, are `fn *`.
fn type_name(section: &Section, id: u32) -> Result<String, BtfError> {
    let (mut next, mut prefix, mut suffix) = (id, "", String::new());
    for _ in 0..MAX_DEPTH {
        let Some(t) = section.by_id(next)? else { return Ok(format!("{prefix}void{suffix}")) };
        let word = match t.kind {
            Kind::Ptr => {
                suffix.push_str(if suffix.is_empty() { " *" } else { "*" });
                next = t.size_or_type;
                continue;
            }
            Kind::Const => {
                // What a pointer points to may be constant; that the parameter itself is says nothing to a caller.
                if !suffix.is_empty() {
                    prefix = "const ";
                }
                next = t.size_or_type;
                continue;
            }
            Kind::Volatile | Kind::Restrict | Kind::TypeTag => {
                next = t.size_or_type;
                continue;
            }
            Kind::Array => {
                next = section.trailer_word(&t, 0)?;
                suffix.push_str("[]");
                continue;
            }
            Kind::Struct => "struct ",
            Kind::Union => "union ",
            Kind::Forward if t.flag => "union ",
            Kind::Forward => "struct ",
            Kind::Enum | Kind::Enum64 => "enum ",
            Kind::FuncProto | Kind::Func => return Ok(format!("fn{suffix}")),
            Kind::Int | Kind::Float | Kind::Typedef | Kind::Var | Kind::DataSec | Kind::DeclTag => "",
        };
        let name = section.string(t.name)?;
        let name = if name.is_empty() { "{...}" } else { name };
        return Ok(format!("{prefix}{word}{name}{suffix}"));
    }
    Err(BtfError::TooDeep(id))
}
