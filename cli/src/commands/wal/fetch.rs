//! `zektor wal fetch`: PostgreSQL's restore_command.
//!
//! PostgreSQL takes an exit code of 1 to 125 for "there is no such file": recovery then ends there, or waits for
//! more. Anything above 125 ends recovery with an error (`RestoreArchivedFile`, `src/backend/access/transam/xlogarchive.c`).
//! What must stay true: 1 is said only when the store itself said that the file is not there, several times, of a branch
//! that it knew before and after, and does not list it either; every doubt is [`Ending::InDoubt`]. The file appears whole
//! or not at all.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use events::BranchName;
use pg_format::{SegmentName, WalSegmentSize};
use repository::{
    BranchReader, BranchRecord, ErrorClass, ParentBranch, Repository, RepositoryError, WalObject,
    WalObjectKind,
};
use serde::Serialize;
use service::run::chain;
use tokio::time::Instant;

use super::archive::{repository, store_failure};
use super::file::WalFile;
use crate::arguments::WalFetch;
use crate::failure::{Ending, Failure};
use crate::output::{Reply, note};
use crate::session::Setting;

const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// A store, or a proxy before it, may answer "not there" for a moment of something that is.
const LOOKS: u32 = 3;
const LOOK_PAUSE: Duration = Duration::from_millis(300);
/// Branches of branches of branches; more than this is a circle.
const MOST_ANCESTORS: usize = 64;
/// The code of "the store said that it is not there".
const ABSENT: &str = "absent";

#[derive(Debug, Serialize)]
struct Fetched {
    file: String,
    bytes: u64,
    /// The branch that has it: this one, or one that it was restored from.
    branch: BranchName,
    /// How much of it is WAL, if the segment is not complete: zeros follow.
    wal_bytes: Option<u64>,
}

/// A file as it is to be written.
struct Found {
    content: Bytes,
    branch: BranchName,
    wal_bytes: Option<u64>,
}

/// Writes a file out of the archive.
pub(crate) async fn fetch(setting: &Setting, given: WalFetch) -> Result<Reply, Failure> {
    in_doubt(fetch_file(setting, given).await)
}

/// Whatever is not a clear "absent" must not be taken for one.
pub(crate) fn in_doubt<T>(outcome: Result<T, Failure>) -> Result<T, Failure> {
    outcome.map_err(|failure| match failure.code.as_str() {
        ABSENT => failure,
        _ => Failure {
            ending: Ending::InDoubt,
            ..failure
        },
    })
}

async fn fetch_file(setting: &Setting, given: WalFetch) -> Result<Reply, Failure> {
    let file = WalFile::named(&given.name)?;
    if let WalFile::Partial(_) = file {
        let message = "PostgreSQL restores no .partial by name; ask for the segment";
        return Err(Failure::usage(message, ""));
    }
    let archive = Archive {
        repository: repository(setting)?,
        given: &given,
        file,
    };
    let deadline = Instant::now() + Duration::from_secs(given.patience);
    let found = loop {
        let error = match archive.find_surely().await {
            Ok(found) => break found,
            Err(error) => error,
        };
        let again = matches!(
            error.class(),
            ErrorClass::Transient | ErrorClass::Denied | ErrorClass::Corrupt
        );
        if !again || Instant::now() >= deadline {
            let what = format!("whether {} is archived cannot be said", given.name);
            return Err(store_failure(&what, &error));
        }
        note(&format!(
            "{} is asked for again: {}",
            given.name,
            chain(&error)
        ));
        tokio::time::sleep(ASK_AGAIN_AFTER).await;
    };
    let Some(found) = found else {
        let message = format!("{} is not in the archive", given.name);
        return Err(Failure::new(Ending::Failed, ABSENT, message, ""));
    };
    write(&given.destination, &found.content)?;
    let fetched = Fetched {
        file: given.name,
        bytes: found.content.len() as u64,
        branch: found.branch,
        wal_bytes: found.wal_bytes,
    };
    Reply::new(&fetched, "")
}

struct Archive<'a> {
    repository: Repository,
    given: &'a WalFetch,
    file: WalFile,
}

impl Archive<'_> {
    /// The file; nothing if the store said several times that it is not there.
    async fn find_surely(&self) -> Result<Option<Found>, RepositoryError> {
        for look in 1..=LOOKS {
            let found = self.find().await?;
            if found.is_some() {
                return Ok(found);
            }
            if look < LOOKS {
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        }
        Ok(None)
    }

    /// The file; nothing if the store said that neither the branch nor one that it was restored from has it.
    async fn find(&self) -> Result<Option<Found>, RepositoryError> {
        let mut branch = self.given.of.branch.clone();
        for _ in 0..MOST_ANCESTORS {
            let reader = self.repository.reader(&self.given.of.instance, &branch);
            let record = self.record(&reader).await?;
            if let Some((content, wal_bytes)) = self.find_in(&reader, &record).await? {
                return Ok(Some(Found {
                    content,
                    branch,
                    wal_bytes,
                }));
            }
            // A store that knows nothing of anything, a wrong bucket perhaps, does not know this either.
            let _again = self.record(&reader).await?;
            match record.parent {
                Some(parent) if self.is_shared(&parent, record.wal_segment_size) => {
                    branch = parent.branch;
                }
                _ => break,
            }
        }
        Ok(None)
    }

    /// Whether a branch has the file from its parent. What the parent wrote after the fork has names that the branch
    /// may have too, one day, for other WAL.
    fn is_shared(&self, parent: &ParentBranch, size: WalSegmentSize) -> bool {
        match &self.file {
            WalFile::History(timeline) => *timeline <= parent.fork_timeline,
            WalFile::Segment(name) => SegmentName::parse(name, size).is_ok_and(|name| {
                name.timeline <= parent.fork_timeline && name.start(size) < parent.fork_lsn
            }),
            WalFile::Partial(_) | WalFile::BackupHistory => false,
        }
    }

    /// Without it, the store's word that something is not there is worth nothing.
    async fn record(&self, reader: &BranchReader) -> Result<BranchRecord, RepositoryError> {
        reader.record().await.map_err(|error| match error {
            RepositoryError::Absent { key } => RepositoryError::Refused {
                what: format!("the repository does not know the branch ({key} is not there)"),
            },
            other => other,
        })
    }

    async fn find_in(
        &self,
        reader: &BranchReader,
        record: &BranchRecord,
    ) -> Result<Option<(Bytes, Option<u64>)>, RepositoryError> {
        let whole = |content| (content, None);
        match &self.file {
            WalFile::History(timeline) => {
                let text = RepositoryError::absent_as_none(reader.get_history(*timeline).await)?;
                Ok(text.map(whole))
            }
            // Never stored; see `zektor wal push`.
            WalFile::BackupHistory | WalFile::Partial(_) => Ok(None),
            WalFile::Segment(name) => {
                let size = record.wal_segment_size;
                let name = SegmentName::parse(name, size).map_err(|error| {
                    let what = error.to_string();
                    RepositoryError::Refused { what }
                })?;
                let length = usize::try_from(size.bytes()).unwrap_or(usize::MAX);
                if let Some(raw) = segment(reader, name).await? {
                    return Ok(Some(whole(exactly(raw, length, name)?)));
                }
                if self.given.complete {
                    return Ok(None);
                }
                let open = reader.get_partial(name).await;
                if let Some(raw) = RepositoryError::absent_as_none(open)? {
                    let wal_bytes = raw.len() as u64;
                    return Ok(Some((padded(&raw, length, name)?, Some(wal_bytes))));
                }
                // Its .partial goes when the segment comes.
                if let Some(raw) = segment(reader, name).await? {
                    return Ok(Some(whole(exactly(raw, length, name)?)));
                }
                not_listed(reader, name, size).await?;
                Ok(None)
            }
        }
    }
}

async fn segment(
    reader: &BranchReader,
    name: SegmentName,
) -> Result<Option<Bytes>, RepositoryError> {
    RepositoryError::absent_as_none(reader.get_segment(name).await)
}

/// The store's two ways to say what there is must agree.
async fn not_listed(
    reader: &BranchReader,
    name: SegmentName,
    size: WalSegmentSize,
) -> Result<(), RepositoryError> {
    let Some(before) = name.number(size).checked_sub(1) else {
        return Ok(());
    };
    let before = WalObjectKind::Segment(SegmentName::new(name.timeline, before, size));
    let listed = reader.list_wal_after(size, name.timeline, before).await?;
    let same = |object: &&WalObject| object.kind == WalObjectKind::Segment(name);
    match listed.iter().find(same) {
        None => Ok(()),
        Some(_) => Err(RepositoryError::Transient {
            operation: "read",
            key: name.to_string(),
            source: "the store lists it, and says that it is not there".into(),
        }),
    }
}

/// A file of another size ends recovery.
fn exactly(raw: Bytes, length: usize, name: SegmentName) -> Result<Bytes, RepositoryError> {
    if raw.len() == length {
        return Ok(raw);
    }
    Err(RepositoryError::Corrupt {
        key: name.to_string(),
        reason: format!("it has {} bytes instead of {length}", raw.len()),
    })
}

/// Zeros are where WAL ends.
fn padded(raw: &Bytes, length: usize, name: SegmentName) -> Result<Bytes, RepositoryError> {
    let mut content = raw.to_vec();
    content.resize(length.max(raw.len()), 0);
    exactly(content.into(), length, name)
}

/// Writes the file under a temporary name beside its place, and renames it when all of it is on disk.
fn write(destination: &Path, content: &[u8]) -> Result<(), Failure> {
    let temporary = temporary_name(destination);
    let written = write_whole(&temporary, content)
        .and_then(|()| std::fs::rename(&temporary, destination))
        .and_then(|()| sync_directory(destination));
    written.map_err(|error| {
        // Left behind, it would only take up room.
        let _ = std::fs::remove_file(&temporary);
        Failure::local(
            &format!("{} cannot be written", destination.display()),
            &error,
        )
    })
}

fn temporary_name(destination: &Path) -> PathBuf {
    let mut name = destination.file_name().unwrap_or_default().to_owned();
    name.push(format!(".zektor-{}", std::process::id()));
    destination.with_file_name(name)
}

fn write_whole(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn sync_directory(destination: &Path) -> std::io::Result<()> {
    let directory = destination
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    std::fs::File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests;
