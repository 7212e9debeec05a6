//! Files as a compressed tar archive that does not tell who made it: root owns everything, and all times are one.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use tar::{Builder, EntryType, Header};

use super::layout::{Entry, gzip};

/// The archive of `entries` below the folder `top`, each folder before what is in it. `time` in seconds since 1970.
pub(super) fn tar_gz(entries: &[Entry], top: &str, time: u64) -> Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    let mut folders = BTreeSet::new();
    for entry in entries {
        let path = format!("{top}/{}", entry.path);
        for (end, _) in path.match_indices('/') {
            let folder = format!("{}/", &path[..end]);
            if folders.insert(folder.clone()) {
                add(&mut builder, EntryType::Directory, &folder, 0o755, &[], time)?;
            }
        }
        let mode = if entry.executable { 0o755 } else { 0o644 };
        add(&mut builder, EntryType::Regular, &path, mode, &entry.content, time)?;
    }
    gzip(&builder.into_inner()?)
}

fn add(
    builder: &mut Builder<Vec<u8>>,
    kind: EntryType,
    path: &str,
    mode: u32,
    content: &[u8],
    time: u64,
) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_username("root")?;
    header.set_groupname("root")?;
    header.set_mtime(time);
    header.set_size(u64::try_from(content.len())?);
    builder.append_data(&mut header, path, content).with_context(|| format!("cannot archive {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn folders_come_first_and_nothing_tells_who_made_it() {
        let entries = [
            Entry { path: "bin/run".to_owned(), executable: true, content: b"x".to_vec() },
            Entry { path: "bin/text".to_owned(), executable: false, content: b"yy".to_vec() },
        ];
        let bytes = tar_gz(&entries, "top", 7).unwrap();
        assert_eq!(bytes, tar_gz(&entries, "top", 7).unwrap(), "the same twice");
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
        let mut archive = tar::Archive::new(&plain[..]);
        let found: Vec<(String, u32, u64)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                assert_eq!(
                    (header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()),
                    (0, 0, 7)
                );
                assert_eq!(header.username().unwrap(), Some("root"));
                let path = entry.path().unwrap().to_string_lossy().into_owned();
                (path, header.mode().unwrap(), header.size().unwrap())
            })
            .collect();
        let expected = [
            ("top/", 0o755, 0),
            ("top/bin/", 0o755, 0),
            ("top/bin/run", 0o755, 1),
            ("top/bin/text", 0o644, 2),
        ];
        assert_eq!(found, expected.map(|(path, mode, size)| (path.to_owned(), mode, size)));
    }
}
