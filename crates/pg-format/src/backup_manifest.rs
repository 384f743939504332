//! `backup_manifest`: the server's own list of a base backup's files, with their checksums, and of
//! the WAL that makes it consistent.
//!
//! JSON, written by `src/backend/backup/backup_manifest.c`, version 1 up to PostgreSQL 16 and 2
//! from 17 on. Its last line holds a SHA-256 of every byte before that line, so the text must be
//! kept as the server sent it.

mod checksum;

use std::borrow::Cow;
use std::fmt;

use sha2::{Digest, Sha256};

use checksum::decode_hexadecimal;

use crate::{Lsn, SystemIdentifier, TimelineId};

pub use checksum::{ChecksumAlgorithm, FileChecksum, FileHasher};

/// What a `backup_manifest` says. Its own checksum was right when this was parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupManifest {
    /// 1 or 2.
    pub version: u32,
    /// The cluster; version 2 only.
    pub system_identifier: Option<SystemIdentifier>,
    /// Every file except WAL, in the server's order.
    pub files: Vec<ManifestFile>,
    /// The WAL that recovery needs to become consistent, one range for each timeline.
    pub wal_ranges: Vec<ManifestWalRange>,
    /// The manifest's own SHA-256.
    pub checksum: [u8; 32],
}

/// A file of the backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFile {
    /// Relative to the data directory; tablespaces are under `pg_tblspc/<oid>/`.
    pub path: ManifestPath,
    /// Bytes.
    pub size: u64,
    /// The checksum, unless the backup was taken without.
    pub checksum: Option<FileChecksum>,
}

/// A path as the server's file system has it: bytes, usually UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ManifestPath(Vec<u8>);

/// WAL needed on one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestWalRange {
    /// The timeline.
    pub timeline: TimelineId,
    /// First byte.
    pub start_lsn: Lsn,
    /// First byte that is not needed.
    pub end_lsn: Lsn,
}

impl BackupManifest {
    /// Parses a whole manifest and checks its own checksum.
    pub fn parse(bytes: &[u8]) -> Result<Self, BackupManifestError> {
        let covered = covered_by_checksum(bytes)?;
        let json: ManifestJson<'_> =
            serde_json::from_slice(bytes).map_err(|source| BackupManifestError::Json { source })?;
        if !(1..=2).contains(&json.version) {
            return Err(BackupManifestError::Version {
                version: json.version,
            });
        }
        let checksum: [u8; 32] = Sha256::digest(covered).into();
        if decode_hexadecimal(&json.checksum).as_deref() != Some(&checksum[..]) {
            return Err(BackupManifestError::OwnChecksum);
        }
        let files = json
            .files
            .into_iter()
            .map(FileJson::check)
            .collect::<Result<_, _>>()?;
        let wal_ranges = json.wal_ranges.into_iter().map(|range| ManifestWalRange {
            timeline: range.timeline,
            start_lsn: range.start_lsn,
            end_lsn: range.end_lsn,
        });
        Ok(BackupManifest {
            version: json.version,
            system_identifier: json.system_identifier.map(SystemIdentifier),
            files,
            wal_ranges: wal_ranges.collect(),
            checksum,
        })
    }
}

/// Everything before the last line.
fn covered_by_checksum(bytes: &[u8]) -> Result<&[u8], BackupManifestError> {
    let body = bytes
        .strip_suffix(b"\n")
        .ok_or(BackupManifestError::Lines)?;
    let newline = body.iter().rposition(|byte| *byte == b'\n');
    let end = newline.ok_or(BackupManifestError::Lines)? + 1;
    Ok(&bytes[..end])
}

#[derive(serde::Deserialize)]
struct ManifestJson<'a> {
    #[serde(rename = "PostgreSQL-Backup-Manifest-Version")]
    version: u32,
    #[serde(rename = "System-Identifier")]
    system_identifier: Option<u64>,
    #[serde(rename = "Files", borrow)]
    files: Vec<FileJson<'a>>,
    #[serde(rename = "WAL-Ranges")]
    wal_ranges: Vec<WalRangeJson>,
    #[serde(rename = "Manifest-Checksum")]
    checksum: String,
}

#[derive(serde::Deserialize)]
struct FileJson<'a> {
    #[serde(rename = "Path", borrow)]
    path: Option<Cow<'a, str>>,
    #[serde(rename = "Encoded-Path", borrow)]
    encoded_path: Option<Cow<'a, str>>,
    #[serde(rename = "Size")]
    size: u64,
    #[serde(rename = "Checksum-Algorithm", borrow)]
    algorithm: Option<Cow<'a, str>>,
    #[serde(rename = "Checksum", borrow)]
    checksum: Option<Cow<'a, str>>,
}

#[derive(serde::Deserialize)]
struct WalRangeJson {
    #[serde(rename = "Timeline")]
    timeline: TimelineId,
    #[serde(rename = "Start-LSN")]
    start_lsn: Lsn,
    #[serde(rename = "End-LSN")]
    end_lsn: Lsn,
}

impl FileJson<'_> {
    fn check(self) -> Result<ManifestFile, BackupManifestError> {
        let path = match (self.path, self.encoded_path) {
            (Some(path), None) => path.into_owned().into_bytes(),
            (None, Some(hexadecimal)) => {
                decode_hexadecimal(&hexadecimal).ok_or_else(|| BackupManifestError::Path {
                    path: hexadecimal.into_owned(),
                })?
            }
            (path, _) => {
                let path = path.map(Cow::into_owned).unwrap_or_default();
                return Err(BackupManifestError::Path { path });
            }
        };
        let path = ManifestPath(path);
        let checksum = match (self.algorithm, self.checksum) {
            (None, None) => None,
            (Some(algorithm), Some(value)) => match FileChecksum::parse(&algorithm, &value) {
                Some(checksum) => Some(checksum),
                None => return Err(BackupManifestError::FileChecksum { path }),
            },
            _ => return Err(BackupManifestError::FileChecksum { path }),
        };
        Ok(ManifestFile {
            path,
            size: self.size,
            checksum,
        })
    }
}

impl ManifestPath {
    /// The path's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path, if it is UTF-8.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

/// What is not UTF-8 is replaced.
impl fmt::Display for ManifestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for ManifestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

/// The bytes are not a whole and unchanged `backup_manifest`.
#[derive(Debug, thiserror::Error)]
pub enum BackupManifestError {
    /// The last line, which holds the checksum, is not there.
    #[error("backup manifest does not end with a line of its own checksum; it may be cut short")]
    Lines,
    /// Not the JSON of a manifest.
    #[error("backup manifest is not the expected json")]
    Json {
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A version after those known.
    #[error("backup manifest has version {version}; 1 and 2 are known")]
    Version {
        /// The version.
        version: u32,
    },
    /// The checksum in the last line is not that of the lines before.
    #[error("backup manifest does not match its own checksum; it was changed or damaged")]
    OwnChecksum,
    /// A file must have a path, plain or in hexadecimal, and not both.
    #[error("backup manifest has a file with the unreadable path {path:?}")]
    Path {
        /// What there is of the path.
        path: String,
    },
    /// A file's checksum cannot be read.
    #[error("backup manifest has an unreadable checksum for {path}")]
    FileChecksum {
        /// The file.
        path: ManifestPath,
    },
}

#[cfg(test)]
mod tests;
