//! The archives of a base backup, taken apart while they arrive.
//!
//! PostgreSQL writes plain ustar (`src/port/tar.c`): no extensions, names of at most 99 bytes, sizes beyond
//! 8 GiB in base 256. Headers are decoded by the `tar` crate; only the framing is ours, because the
//! crate wants a blocking reader and the bytes arrive from a socket. Nothing is buffered but one header.

use bytes::{Buf, Bytes};
use tar::{EntryType, Header};

const BLOCK: usize = 512;

/// A piece of an archive.
#[derive(Debug)]
pub(crate) enum Piece {
    /// An entry begins.
    Entry(Entry),
    /// Bytes of the entry's file.
    Content(Bytes),
    /// All bytes of the entry's file were given. Follows every entry.
    End,
}

/// The head of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Path in the archive, without a leading `./` or trailing slash.
    pub(crate) path: String,
    /// What it is.
    pub(crate) kind: Kind,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Size in bytes.
    pub(crate) size_bytes: u64,
    /// Seconds since the epoch.
    pub(crate) modified_secs: i64,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink(String),
}

/// The archive is not what PostgreSQL writes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TarError {
    #[error("a tar header of the base backup cannot be read")]
    Header(#[source] std::io::Error),
    #[error("the base backup holds {path:?} of tar type {kind:?}, which zektor does not know")]
    UnknownType { path: String, kind: EntryType },
    #[error("a path in the base backup is not UTF-8 or leads outside the data directory: {0:?}")]
    Path(String),
    #[error("the base backup's archive ended in the middle of {0}")]
    Truncated(&'static str),
}

#[derive(Debug)]
enum State {
    Header(Vec<u8>),
    Content { remaining: u64, padding: usize },
    Padding(usize),
}

/// Takes one archive apart.
#[derive(Debug)]
pub(crate) struct TarEntries {
    state: State,
}

impl TarEntries {
    pub(crate) fn new() -> Self {
        TarEntries {
            state: State::Header(Vec::with_capacity(BLOCK)),
        }
    }

    /// Takes the next piece off the front of `input`; `None` when `input` is used up.
    pub(crate) fn next(&mut self, input: &mut Bytes) -> Result<Option<Piece>, TarError> {
        loop {
            match &mut self.state {
                State::Header(header) => {
                    let missing = BLOCK - header.len();
                    let taken = input.split_to(missing.min(input.len()));
                    header.extend_from_slice(&taken);
                    if header.len() < BLOCK {
                        return Ok(None);
                    }
                    let block = std::mem::take(header);
                    if block.iter().all(|byte| *byte == 0) {
                        continue; // The end mark is two empty blocks; the server may send none.
                    }
                    let entry = read_header(&block)?;
                    let size_bytes = entry.size_bytes;
                    let partial = usize::try_from(size_bytes % BLOCK as u64).unwrap_or_default();
                    let padding = (BLOCK - partial) % BLOCK;
                    self.state = State::Content {
                        remaining: size_bytes,
                        padding,
                    };
                    return Ok(Some(Piece::Entry(entry)));
                }
                State::Content {
                    remaining: 0,
                    padding,
                } => {
                    self.state = State::Padding(*padding);
                    return Ok(Some(Piece::End));
                }
                State::Content { remaining, .. } => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let wanted = usize::try_from(*remaining).unwrap_or(usize::MAX);
                    let content = input.split_to(wanted.min(input.len()));
                    *remaining -= content.len() as u64;
                    return Ok(Some(Piece::Content(content)));
                }
                State::Padding(0) => self.state = State::Header(Vec::with_capacity(BLOCK)),
                State::Padding(left) => {
                    let skipped = (*left).min(input.len());
                    input.advance(skipped);
                    *left -= skipped;
                    if *left > 0 {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Checks that the archive ended where an archive may end.
    pub(crate) fn finish(self) -> Result<(), TarError> {
        match self.state {
            State::Header(header) if header.is_empty() => Ok(()),
            State::Header(_) => Err(TarError::Truncated("a header")),
            State::Padding(0) => Ok(()),
            State::Content { .. } | State::Padding(_) => Err(TarError::Truncated("a file")),
        }
    }
}

fn read_header(block: &[u8]) -> Result<Entry, TarError> {
    let header = Header::from_byte_slice(block);
    verify_checksum(header)?;
    let raw = String::from_utf8(header.path_bytes().into_owned())
        .map_err(|error| TarError::Path(String::from_utf8_lossy(error.as_bytes()).into_owned()))?;
    let path = raw
        .trim_start_matches("./")
        .trim_end_matches('/')
        .to_owned();
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(TarError::Path(raw));
    }
    let kind = match header.entry_type() {
        EntryType::Regular => Kind::File,
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => {
            let target = header.link_name_bytes().unwrap_or_default();
            let target = String::from_utf8_lossy(&target).into_owned();
            Kind::Symlink(target)
        }
        kind => return Err(TarError::UnknownType { path, kind }),
    };
    let size_bytes = match kind {
        Kind::File => header.entry_size().map_err(TarError::Header)?,
        Kind::Directory | Kind::Symlink(_) => 0,
    };
    let modified = header.mtime().map_err(TarError::Header)?;
    Ok(Entry {
        path,
        kind,
        mode: header.mode().map_err(TarError::Header)?,
        size_bytes,
        modified_secs: i64::try_from(modified).unwrap_or(i64::MAX),
    })
}

/// The header's own checksum: the sum of its bytes with the checksum field read as spaces.
fn verify_checksum(header: &Header) -> Result<(), TarError> {
    let bytes = header.as_bytes();
    let sum: u32 = bytes[..148]
        .iter()
        .chain(&bytes[156..])
        .map(|byte| u32::from(*byte))
        .sum();
    let expected = header.cksum().map_err(TarError::Header)?;
    if sum + 8 * u32::from(b' ') == expected {
        Ok(())
    } else {
        Err(TarError::Header(std::io::Error::other(
            "its checksum does not match",
        )))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{Kind, Piece, TarEntries};

    fn archive() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |path: &str, kind, content: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(kind);
            header.set_mode(0o600);
            header.set_size(content.len() as u64);
            header.set_mtime(1_790_000_000);
            header.set_path(path).unwrap();
            if kind == tar::EntryType::Symlink {
                header.set_link_name("/srv/ts").unwrap();
            }
            header.set_cksum();
            builder.append(&header, content).unwrap();
        };
        add("base", tar::EntryType::Directory, b"");
        add("base/empty", tar::EntryType::Regular, b"");
        add("base/short", tar::EntryType::Regular, b"abc");
        add("base/block", tar::EntryType::Regular, &[7; 512]);
        add("base/long", tar::EntryType::Regular, &[9; 2000]);
        add("pg_tblspc/16385", tar::EntryType::Symlink, b"");
        builder.into_inner().unwrap()
    }

    fn take_apart(archive: &[u8], step: usize) -> Vec<(String, usize)> {
        let mut entries = TarEntries::new();
        let mut seen: Vec<(String, usize)> = Vec::new();
        let mut ended = 0;
        for part in archive.chunks(step) {
            let mut input = Bytes::copy_from_slice(part);
            while let Some(piece) = entries.next(&mut input).unwrap() {
                match piece {
                    Piece::Entry(entry) => seen.push((entry.path, 0)),
                    Piece::Content(bytes) => seen.last_mut().unwrap().1 += bytes.len(),
                    Piece::End => ended += 1,
                }
            }
        }
        entries.finish().unwrap();
        assert_eq!(ended, seen.len());
        seen
    }

    #[test]
    fn any_split_gives_the_same_entries() {
        let archive = archive();
        let whole = take_apart(&archive, archive.len());
        assert_eq!(whole.len(), 6);
        assert_eq!(whole[4], ("base/long".to_owned(), 2000));
        for step in [1, 7, 511, 512, 513, 4096] {
            assert_eq!(take_apart(&archive, step), whole, "step {step}");
        }
    }

    #[test]
    fn truncation_and_damage_are_errors() {
        let archive = archive();
        let mut entries = TarEntries::new();
        let mut input = Bytes::copy_from_slice(&archive[..5 * 512]);
        while let Some(_piece) = entries.next(&mut input).unwrap() {}
        assert!(entries.finish().is_err());

        let mut damaged = archive.clone();
        damaged[3] ^= 1;
        let mut input = Bytes::from(damaged);
        assert!(TarEntries::new().next(&mut input).is_err());
    }

    #[test]
    fn paths_stay_inside() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..9].copy_from_slice(b"a/../../b");
        header.set_size(0);
        header.set_mode(0o600);
        header.set_mtime(0);
        header.set_cksum();
        builder.append(&header, &b""[..]).unwrap();
        let mut input = Bytes::from(builder.into_inner().unwrap());
        assert!(TarEntries::new().next(&mut input).is_err());
    }

    #[test]
    fn symlinks_keep_their_target() {
        let mut entries = TarEntries::new();
        let mut input = Bytes::from(archive());
        let mut links = Vec::new();
        while let Some(piece) = entries.next(&mut input).unwrap() {
            if let Piece::Entry(entry) = piece
                && let Kind::Symlink(target) = entry.kind
            {
                links.push(target);
            }
        }
        assert_eq!(links, ["/srv/ts"]);
    }
}
