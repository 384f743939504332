//! One entry of a backup's file index, and where its bytes are.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Digest, RepositoryError, Result};

/// Where a file of the cluster is: relative to PGDATA, or to a tablespace's directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntryPath {
    /// The tablespace's oid; `None` for PGDATA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tablespace: Option<u32>,
    /// Parts joined by `/`, none of them empty, `.` or `..`.
    pub path: String,
}

impl EntryPath {
    /// A path in PGDATA.
    pub fn data(path: impl Into<String>) -> Self {
        EntryPath {
            tablespace: None,
            path: path.into(),
        }
    }

    /// A path in the directory of tablespace `oid`.
    pub fn tablespace(oid: u32, path: impl Into<String>) -> Self {
        EntryPath {
            tablespace: Some(oid),
            path: path.into(),
        }
    }

    /// The tablespace that a link in PGDATA leads to: `pg_tblspc/<oid>`.
    #[must_use]
    pub fn linked_tablespace(&self) -> Option<u32> {
        let oid = self
            .path
            .strip_prefix("pg_tblspc/")
            .filter(|_| self.tablespace.is_none())?;
        oid.parse()
            .ok()
            .filter(|number: &u32| number.to_string() == oid)
    }

    /// A path that cannot leave the directory it is relative to.
    pub(crate) fn is_confined(&self) -> bool {
        let part = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= 255;
        !self.path.contains('\0') && self.path.len() <= 4096 && self.path.split('/').all(part)
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tablespace {
            Some(oid) => write!(f, "tablespace {oid}: {}", self.path),
            None => f.write_str(&self.path),
        }
    }
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A link in `pg_tblspc`. Only those exist in a base backup.
    Symlink {
        /// Where it led on the source.
        target: String,
    },
}

/// Announces a file, directory or link to a [`super::BackupWriter`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// Where it is.
    pub path: EntryPath,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, such as `0o600`.
    pub mode: u32,
    /// Size in bytes of a file; zero for the others.
    pub size: u64,
    /// Time of its last change on the source, in seconds since 1970.
    pub modified_unix_secs: i64,
}

impl FileHeader {
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |why: &str| Err(RepositoryError::refused(format!("{}: {why}", self.path)));
        if !self.path.is_confined() {
            return refuse("not a relative path of a cluster's file");
        }
        match &self.kind {
            EntryKind::Symlink { .. } if self.path.linked_tablespace().is_none() => {
                refuse("only links to tablespaces, pg_tblspc/<oid>, can be backed up")
            }
            EntryKind::Directory | EntryKind::Symlink { .. } if self.size > 0 => {
                refuse("only a file can have bytes")
            }
            _ => Ok(()),
        }
    }
}

/// A line of the index. A long file takes several, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    #[serde(rename = "at")]
    pub(crate) path: EntryPath,
    pub(crate) mode: u32,
    pub(crate) modified: i64,
    #[serde(rename = "is")]
    pub(crate) content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Content {
    Directory,
    Symlink {
        target: String,
    },
    File {
        size: u64,
        /// Where the first of these chunks begins in the file.
        offset: u64,
        chunks: Vec<Chunk>,
    },
}

impl Entry {
    pub(crate) fn new(header: FileHeader) -> Self {
        let content = match header.kind {
            EntryKind::File => Content::File {
                size: header.size,
                offset: 0,
                chunks: Vec::new(),
            },
            EntryKind::Directory => Content::Directory,
            EntryKind::Symlink { target } => Content::Symlink { target },
        };
        let modified = header.modified_unix_secs;
        Entry {
            path: header.path,
            mode: header.mode & 0o7777,
            modified,
            content,
        }
    }
}

/// The bytes of one chunk: a number for so many zeros, a list for bytes in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Chunk {
    Zeros(u32),
    Stored(StoredChunk),
}

impl Chunk {
    pub(crate) fn raw_bytes(&self) -> u32 {
        match self {
            Chunk::Zeros(bytes) => *bytes,
            Chunk::Stored(chunk) => chunk.raw_bytes,
        }
    }
}

/// Where a chunk is. Stored and raw length are equal exactly when it was not compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredChunkLine", into = "StoredChunkLine")]
pub(crate) struct StoredChunk {
    /// Index into the manifest's list of packs.
    pub(crate) pack: u32,
    pub(crate) offset: u32,
    pub(crate) stored_bytes: u32,
    pub(crate) raw_bytes: u32,
    /// Of the raw bytes.
    pub(crate) digest: Digest,
}

type StoredChunkLine = (u32, u32, u32, u32, Digest);

impl From<StoredChunkLine> for StoredChunk {
    fn from((pack, offset, stored_bytes, raw_bytes, digest): StoredChunkLine) -> Self {
        StoredChunk {
            pack,
            offset,
            stored_bytes,
            raw_bytes,
            digest,
        }
    }
}

impl From<StoredChunk> for StoredChunkLine {
    fn from(chunk: StoredChunk) -> Self {
        (
            chunk.pack,
            chunk.offset,
            chunk.stored_bytes,
            chunk.raw_bytes,
            chunk.digest,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Chunk, Content, Entry, EntryPath, StoredChunk};
    use crate::Digest;

    #[test]
    fn the_lines_of_an_index() {
        let check = |entry: Entry, line: &str| {
            assert_eq!(serde_json::to_string(&entry).unwrap(), line);
            assert_eq!(serde_json::from_str::<Entry>(line).unwrap(), entry);
        };
        let digest = Digest::of(b"");
        let stored = StoredChunk {
            pack: 1,
            offset: 8,
            stored_bytes: 2,
            raw_bytes: 3,
            digest,
        };
        let chunks = vec![Chunk::Zeros(1 << 20), Chunk::Stored(stored)];
        let content = Content::File {
            size: 1_048_579,
            offset: 0,
            chunks,
        };
        let path = EntryPath::data("base/5/1259");
        let entry = |path, content| Entry {
            path,
            mode: 0o600,
            modified: 7,
            content,
        };
        check(
            entry(path, content),
            &format!(
                r#"{{"at":{{"path":"base/5/1259"}},"mode":384,"modified":7,"is":{{"file":{{"size":1048579,"offset":0,"chunks":[1048576,[1,8,2,3,"{digest}"]]}}}}}}"#
            ),
        );
        check(
            entry(EntryPath::tablespace(9, "PG_15"), Content::Directory),
            r#"{"at":{"tablespace":9,"path":"PG_15"},"mode":384,"modified":7,"is":"directory"}"#,
        );
    }

    #[test]
    fn paths_stay_inside() {
        for path in ["base", "base/1/2_fsm", "a b/ü"] {
            assert!(EntryPath::data(path).is_confined(), "{path}");
        }
        for path in ["", "/etc", "a//b", "a/", "./a", "a/../b", "..", "a\0"] {
            assert!(!EntryPath::data(path).is_confined(), "{path}");
        }
        assert_eq!(
            EntryPath::data("pg_tblspc/16384").linked_tablespace(),
            Some(16384)
        );
        for path in ["pg_tblspc/+1", "pg_tblspc/01", "pg_tblspc/1/2", "pg_tblspc"] {
            assert_eq!(EntryPath::data(path).linked_tablespace(), None, "{path}");
        }
    }
}
