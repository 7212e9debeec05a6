//! Files that users name: read whole, refused when they cannot be what was asked for.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// More than any policy, budget or plan has; what is larger, or never ends as /dev/zero, was named by mistake.
const MOST: u64 = 16 << 20;

/// The text of a file.
///
/// # Errors
/// Those of the file; [`io::ErrorKind::FileTooLarge`] above 16 MiB, [`io::ErrorKind::InvalidData`] with the line of what is
/// not UTF-8.
pub fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    let size = File::open(path)?.take(MOST + 1).read_to_end(&mut bytes)?;
    if u64::try_from(size).is_ok_and(|size| size > MOST) {
        let text = format!("it is larger than {} MiB; was another file meant?", MOST >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.split(|byte| *byte == b'\n').count();
        io::Error::new(io::ErrorKind::InvalidData, format!("line {line} is not UTF-8 text"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_refused_with_the_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for (bytes, expected) in [
            (&b""[..], Ok("")),
            (b"a\nb\n", Ok("a\nb\n")),
            (b"\xff", Err("line 1 is not UTF-8 text")),
            (b"a\nb\xff\xfe\nc", Err("line 2 is not UTF-8 text")),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let read = read(&path).map_err(|error| error.to_string());
            assert_eq!(read.as_deref().map_err(String::as_str), expected);
        }
    }

    #[test]
    fn a_file_without_end_is_not_read_to_it() {
        let error = read(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(error.to_string(), "it is larger than 16 MiB; was another file meant?");
    }
}
