//! The layout of a classic tracepoint's record, as tracefs' `format` files describe it.
//!
//! Pure text parsing. The files look the same in all supported kernels (kernel/trace/trace_events.c, `f_show`).

/// A field of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name, without array brackets.
    pub name: String,
    /// Bytes from the record's start.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
}

/// A line that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: cannot read the field {text:?}")]
pub struct FormatError {
    /// Line number, from 1.
    pub line: usize,
    /// The line.
    pub text: String,
}

/// Reads all fields of a `format` file.
///
/// # Errors
/// The first `field:` line that cannot be read.
pub fn parse(text: &str) -> Result<Vec<Field>, FormatError> {
    let mut fields = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let Some(rest) = line.trim_start().strip_prefix("field:") else { continue };
        let field = parse_field(rest)
            .ok_or_else(|| FormatError { line: number + 1, text: line.trim().to_owned() })?;
        fields.push(field);
    }
    Ok(fields)
}

/// `unsigned int exit_reason; offset:8; size:4; signed:0;`, with tabs between.
fn parse_field(text: &str) -> Option<Field> {
    let mut parts = text.split(';').map(str::trim);
    let declaration = parts.next()?;
    let name = declaration.rsplit([' ', '*']).next()?.split('[').next()?;
    let mut number = |key: &str| parts.next()?.strip_prefix(key)?.parse().ok();
    let (offset, size) = (number("offset:")?, number("size:")?);
    (!name.is_empty()).then(|| Field { name: name.to_owned(), offset, size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ENTRY: &str = "name: irq_handler_entry
ID: 153
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:int irq;\toffset:8;\tsize:4;\tsigned:1;
\tfield:__data_loc char[] name;\toffset:12;\tsize:4;\tsigned:0;
\tfield:char comm[16];\toffset:16;\tsize:16;\tsigned:0;
\tfield:void * ptr;\toffset:32;\tsize:8;\tsigned:0;

print fmt: \"irq=%d name=%s\", REC->irq, __get_str(name)
";

    #[test]
    fn fields_of_all_kinds() {
        let fields = parse(ENTRY).unwrap();
        let short: Vec<_> = fields.iter().map(|f| (f.name.as_str(), f.offset, f.size)).collect();
        assert_eq!(
            short,
            [
                ("common_type", 0, 2),
                ("common_pid", 4, 4),
                ("irq", 8, 4),
                // The brackets belong to the type here; the name follows them.
                ("name", 12, 4),
                ("comm", 16, 16),
                ("ptr", 32, 8)
            ]
        );
    }

    #[test]
    fn a_bad_line_is_named() {
        let error = parse("format:\n\tfield:int irq;\toffset:x;\tsize:4;\n").unwrap_err();
        assert_eq!((error.line, error.text.starts_with("field:int irq;")), (2, true));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text: String) {
            let _ = parse(&text);
        }
    }
}
