//! Which libraries of the system a program starts with. Knows no package format; it hands out the words of two.

/// What must be there beside the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Needs {
    /// `N` of the oldest C library, `2.N`, that the program starts with; `None` when it brings its own.
    glibc: Option<u32>,
    /// Whether the compiler's library for unwinding must be there.
    unwinder: bool,
}

impl Needs {
    /// Reads a program. The linker leaves the names of libraries and their symbol versions in it as text: the highest
    /// `GLIBC_2.N` counts; a static program names none.
    pub(super) fn of(program: &[u8]) -> Self {
        let start = b"GLIBC_2.";
        let minor = |rest: &[u8]| {
            let digits: String =
                rest.iter().take_while(|b| b.is_ascii_digit()).map(|b| char::from(*b)).collect();
            digits.parse::<u32>().ok()
        };
        let versions = program.windows(start.len()).enumerate().filter(|(_, window)| window == start);
        let glibc = versions.filter_map(|(at, _)| minor(&program[at + start.len()..])).max();
        let library = b"libgcc_s.so.1";
        let unwinder = glibc.is_some() && program.windows(library.len()).any(|window| window == library);
        Self { glibc, unwinder }
    }

    pub(super) fn is_static(self) -> bool {
        self.glibc.is_none()
    }

    /// As Debian's field `Depends` has it, one package each.
    pub(super) fn debian(self) -> Vec<String> {
        let mut words: Vec<String> =
            self.glibc.map(|minor| format!("libc6 (>= 2.{minor})")).into_iter().collect();
        if self.unwinder {
            words.push("libgcc-s1".to_owned());
        }
        words
    }

    /// As rpm names what libraries provide.
    pub(super) fn rpm(self) -> Vec<String> {
        let mut words: Vec<String> =
            self.glibc.map(|minor| format!("libc.so.6(GLIBC_2.{minor})(64bit)")).into_iter().collect();
        if self.unwinder {
            words.push("libgcc_s.so.1()(64bit)".to_owned());
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_the_program() {
        for (program, debian, rpm) in [
            ("", &[][..], &[][..]),
            ("GLIBC_PRIVATE GLIBC_2.", &[], &[]),
            ("libgcc_s.so.1", &[], &[]),
            ("GLIBC_2.9\0GLIBC_2.34\0GLIBC_2.2.5\0", &["libc6 (>= 2.34)"], &["libc.so.6(GLIBC_2.34)(64bit)"]),
            (
                "GLIBC_2.17\0libgcc_s.so.1\0",
                &["libc6 (>= 2.17)", "libgcc-s1"],
                &["libc.so.6(GLIBC_2.17)(64bit)", "libgcc_s.so.1()(64bit)"],
            ),
        ] {
            let needs = Needs::of(program.as_bytes());
            assert_eq!(
                (needs.debian(), needs.rpm()),
                (
                    debian.iter().map(ToString::to_string).collect(),
                    rpm.iter().map(ToString::to_string).collect()
                ),
                "{program:?}"
            );
            assert_eq!(needs.is_static(), debian.is_empty());
        }
    }
}
