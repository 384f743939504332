//! The WAL service of a recovery: what it may have is put into a spool, ahead of its asking.
//!
//! PostgreSQL's `restore_command` is a small script ([`script`]) that works against the spool, so that no
//! credentials of the object store are in reach of the server's user. What must stay true:
//!
//! - "Absent" is said only of what the plan knows to be absent ([`crate::served`]). A store that cannot be
//!   asked makes recovery wait, and in the end fails the attempt.
//! - Nothing beyond the plan's end is given: the rest of the last segment is zeros.
//! - The spool is bounded, in segments and in bytes.
//! - A segment whose replay would reach out of the branch ([`inspect`]) is kept back, and recovery ends when it
//!   asks for it. It may stop before; as it reads ahead, by half a megabyte at most, a target close before such
//!   a segment is refused as well.

mod end;
mod inspect;
mod spool;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use pg_format::{Lsn, SegmentName, SegmentNumber};
use repository::{BranchReader, ErrorClass, Owner, RepositoryError};
use tokio::time::Instant;

pub use end::last_record_end;
pub use inspect::{Cluster, CreatedTablespace};
pub use spool::{restore_command, script};

use self::inspect::{Inspected, Looked};
use self::spool::Spool;
use crate::served::{ServedWal, Wanted};

/// How often the spool is looked at. An idle look costs two directory listings.
const LOOK: Duration = Duration::from_millis(20);
/// How often the script is shown that we live.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Pause before a store that could not be asked is asked again.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// So long recovery waits for a store that fails or refuses us; then the attempt is given up.
const STORE_PATIENCE: Duration = Duration::from_secs(30 * 60);
/// Segments that are fetched ahead.
const MOST_SEGMENTS: u64 = 16;
/// Bytes that are fetched ahead, but never less than two segments.
const MOST_BYTES: u64 = 256 << 20;
/// Fetches at once, and bytes that they may hold in memory; one is always allowed.
const CONCURRENT_FETCHES: u64 = 4;
const FETCHED_BYTES: u64 = 128 << 20;

/// Serves one recovery.
pub struct WalService {
    reader: BranchReader,
    served: Arc<ServedWal>,
    spool: Spool,
    /// First segment that recovery has not taken yet, as far as known.
    next: SegmentNumber,
    /// Segments we have put into the spool and that were not taken yet.
    ready: BTreeMap<SegmentNumber, SegmentName>,
    /// Names of which the store said that they do not exist, and of which recovery does not need them.
    absent: BTreeSet<String>,
    cluster: Cluster,
    inspected: Inspected,
    taken: Arc<AtomicU64>,
}

/// A file of the archive; the segments are looked through already.
struct Fetched {
    bytes: Bytes,
    looked: Option<Looked>,
}

/// Why recovery cannot be served any more.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The archive lost or damaged what the plan had found there.
    #[error("wal file {file} cannot be read from the archive")]
    Archive {
        /// Its name.
        file: String,
        /// Why.
        #[source]
        source: RepositoryError,
    },
    /// The archive has less of the last segment than the plan needs.
    #[error("wal file {file} has {found} bytes in the archive where {needed} are needed")]
    Short {
        /// Its name.
        file: String,
        /// Bytes there.
        found: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// What the archive holds is not WAL that recovery can read to its end.
    #[error("wal file {file} in the archive is not valid: {reason}")]
    Invalid {
        /// Its name.
        file: String,
        /// Where, and what does not fit.
        reason: String,
    },
    /// The next WAL that recovery asks for would lead it into a directory of the source.
    #[error(
        "tablespace {} was created at {} after the backup, at {}; take a new backup, or choose a target before {}",
        created.oid, created.location, created.lsn, created.lsn
    )]
    Tablespace {
        /// The tablespace.
        created: CreatedTablespace,
    },
    /// The spool directory failed.
    #[error("cannot use the wal spool {}", path.display())]
    Spool {
        /// Where.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}

impl WalService {
    /// A service for the WAL of `cluster` and the spool in `directory`, whose files are to belong to `owner`.
    #[must_use]
    pub fn new(
        reader: BranchReader,
        served: ServedWal,
        cluster: Cluster,
        directory: PathBuf,
        owner: Option<Owner>,
    ) -> Self {
        WalService {
            reader,
            next: served.first(),
            served: Arc::new(served),
            spool: Spool::new(directory, owner),
            ready: BTreeMap::new(),
            absent: BTreeSet::new(),
            cluster,
            inspected: Inspected::new(cluster),
            taken: Arc::new(AtomicU64::new(0)),
        }
    }

    /// The end of the last segment that recovery has taken, as an LSN; zero before the first.
    #[must_use]
    pub fn taken(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.taken)
    }

    /// Serves until it is dropped.
    ///
    /// # Errors
    /// What was planned is not in the archive any more, or the spool fails.
    pub async fn run(mut self) -> Result<std::convert::Infallible, FetchError> {
        let mut fetches = FuturesUnordered::new();
        let at_once = (FETCHED_BYTES / self.served.size().bytes()).clamp(1, CONCURRENT_FETCHES);
        let mut in_flight: BTreeSet<String> = BTreeSet::new();
        let mut heartbeat = Instant::now();
        self.spool.heartbeat()?;
        loop {
            if heartbeat.elapsed() >= HEARTBEAT {
                self.spool.heartbeat()?;
                heartbeat = Instant::now();
            }
            self.notice_taken()?;
            let wanted = self.answer_wanted()?;
            let ahead = self.ahead();
            for file in wanted.into_iter().chain(ahead) {
                if (fetches.len() as u64) < at_once && in_flight.insert(file.clone()) {
                    let (reader, served) = (self.reader.clone(), Arc::clone(&self.served));
                    let cluster = self.cluster;
                    fetches.push(async move {
                        let fetched = match fetch(&reader, &served, &file).await {
                            Ok(Some(bytes)) => {
                                Ok(Some(inspect(cluster, served, &file, bytes).await))
                            }
                            Ok(None) => Ok(None),
                            Err(error) => Err(error),
                        };
                        (file, fetched)
                    });
                }
            }
            tokio::select! {
                Some((file, fetched)) = fetches.next(), if !fetches.is_empty() => {
                    let _ = in_flight.remove(&file);
                    self.put(&file, fetched?)?;
                }
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Segments that left the spool were taken by recovery.
    fn notice_taken(&mut self) -> Result<(), FetchError> {
        let there = self.spool.ready()?;
        let size = self.served.size();
        let gone: Vec<SegmentNumber> = self
            .ready
            .iter()
            .filter(|(_, name)| !there.contains(&name.to_string()))
            .map(|(number, _)| *number)
            .collect();
        for number in gone {
            let _ = self.ready.remove(&number);
            self.next = number + 1;
            let _ = self
                .taken
                .fetch_max(size.start_of(number + 1).0, Ordering::Relaxed);
        }
        // What recovery has passed, or jumped away from, only takes room.
        let window = self.next.saturating_sub(1)..self.next + self.window();
        let stale: Vec<SegmentNumber> = self
            .ready
            .keys()
            .copied()
            .filter(|number| !window.contains(number))
            .collect();
        for number in stale {
            if let Some(name) = self.ready.remove(&number) {
                self.spool.withdraw(&name.to_string())?;
            }
        }
        self.inspected.forget_before(self.next.saturating_sub(1));
        Ok(())
    }

    /// Answers what can be answered at once; gives back what must be fetched.
    fn answer_wanted(&mut self) -> Result<Vec<String>, FetchError> {
        let mut fetch = Vec::new();
        let wanted = self.spool.wanted()?;
        if wanted.is_empty() {
            return Ok(fetch);
        }
        // Looked at after the questions: the script may just be taking its answer.
        let there = self.spool.ready()?;
        for file in wanted.into_iter().filter(|file| !there.contains(file)) {
            match self.served.wanted(&file) {
                Wanted::Absent => self.spool.say_absent(&file)?,
                _ if self.absent.contains(&file) => self.spool.say_absent(&file)?,
                Wanted::History(_) => fetch.push(file),
                Wanted::Segment(name) => {
                    if let Some(created) = self.inspected.forbidden(name).cloned() {
                        return Err(FetchError::Tablespace { created });
                    }
                    let number = name.number(self.served.size());
                    let _ = self.ready.remove(&number);
                    self.next = number;
                    fetch.push(file);
                }
            }
        }
        Ok(fetch)
    }

    /// The segments from the next one on that are neither ready, nor beyond the plan or what must not be replayed.
    fn ahead(&self) -> Vec<String> {
        (self.next..self.next + self.window())
            .filter(|number| !self.ready.contains_key(number))
            .filter_map(|number| {
                let mut names = self.served.segments(number).into_iter();
                names.find(|name| !self.absent.contains(&name.to_string()))
            })
            .take_while(|name| self.inspected.forbidden(*name).is_none())
            .map(|name| name.to_string())
            .collect()
    }

    fn window(&self) -> u64 {
        (MOST_BYTES / self.served.size().bytes()).clamp(2, MOST_SEGMENTS)
    }

    fn put(&mut self, file: &str, fetched: Option<Fetched>) -> Result<(), FetchError> {
        let Some(Fetched { bytes, looked }) = fetched else {
            // Said when recovery asks; ahead of it, the older timeline's comes next.
            let _ = self.absent.insert(file.to_owned());
            return Ok(());
        };
        let Wanted::Segment(name) = self.served.wanted(file) else {
            return self.spool.put(file, &bytes);
        };
        let forbidden = looked.map(|looked| self.inspected.add(&self.served, looked));
        for name in forbidden.into_iter().flatten() {
            // The one after this may be there already, and not be taken: this one comes before it.
            let _ = self.ready.remove(&name.number(self.served.size()));
            self.spool.withdraw(&name.to_string())?;
        }
        if self.inspected.forbidden(name).is_none() {
            self.spool.put(file, &bytes)?;
            let _ = self.ready.insert(name.number(self.served.size()), name);
        }
        Ok(())
    }
}

/// Looks through a file if it is a segment; a gibibyte takes a second, so not where the questions are answered.
async fn inspect(cluster: Cluster, served: Arc<ServedWal>, file: &str, bytes: Bytes) -> Fetched {
    let looked = match served.wanted(file) {
        Wanted::Segment(name) => {
            let raw = bytes.clone();
            let look = move || inspect::look(cluster, &served, name, &raw);
            tokio::task::spawn_blocking(look).await
        }
        Wanted::History(_) | Wanted::Absent => {
            return Fetched {
                bytes,
                looked: None,
            };
        }
    };
    match looked {
        Ok(looked) => Fetched {
            bytes,
            looked: Some(looked),
        },
        // The look panicked; so does whoever waits for it.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// The bytes to give for a planned file; asks until the store answers, for half an hour. `None` for what recovery does without:
/// an ancestor's history that was never archived, a segment that an older timeline has as well.
async fn fetch(
    reader: &BranchReader,
    served: &ServedWal,
    file: &str,
) -> Result<Option<Bytes>, FetchError> {
    let begun = Instant::now();
    loop {
        let got = match served.wanted(file) {
            Wanted::Absent => return Ok(None),
            Wanted::History(timeline) => {
                match RepositoryError::absent_as_none(reader.get_history(timeline).await) {
                    Ok(None) if timeline != served.history().timeline() => return Ok(None),
                    Ok(Some(text)) => Ok(text),
                    // The pinned timeline's own history was there when the restore was planned.
                    Ok(None) => reader.get_history(timeline).await,
                    Err(error) => Err(error),
                }
            }
            Wanted::Segment(name) => match segment(reader, served, name).await {
                Ok(Ok(bytes)) => Ok(bytes),
                // An older timeline's that is shorter still is an error when it is asked for.
                Ok(Err(FetchError::Short { .. })) if has_older(served, name) => return Ok(None),
                Ok(Err(short)) => return Err(short),
                Err(error) if error.is_absent() && has_older(served, name) => return Ok(None),
                Err(error) => Err(error),
            },
        };
        match got {
            Ok(bytes) => return Ok(Some(bytes)),
            Err(error) if may_be_asked_again(error.class()) && begun.elapsed() < STORE_PATIENCE => {
                tracing::warn!(
                    file,
                    error = &error as &dyn std::error::Error,
                    "wal cannot be fetched at the moment; recovery waits"
                );
                tokio::time::sleep(STORE_PAUSE).await;
            }
            Err(source) => {
                return Err(FetchError::Archive {
                    file: file.to_owned(),
                    source,
                });
            }
        }
    }
}

/// Refused credentials can be mended by a person; recovery waits for that as well, but not for ever.
fn may_be_asked_again(class: ErrorClass) -> bool {
    matches!(class, ErrorClass::Transient | ErrorClass::Denied)
}

/// A whole segment, zeros from the plan's end on.
async fn segment(
    reader: &BranchReader,
    served: &ServedWal,
    name: SegmentName,
) -> Result<Result<Bytes, FetchError>, RepositoryError> {
    let size = served.size().bytes();
    let valid = served.valid_bytes(name);
    let raw = match RepositoryError::absent_as_none(reader.get_segment(name).await)? {
        Some(raw) => raw,
        None if is_last(served, name) => {
            match RepositoryError::absent_as_none(reader.get_partial(name).await)? {
                Some(raw) => raw,
                // It was completed, and its partial removed, between the two questions.
                None => reader.get_segment(name).await?,
            }
        }
        None => reader.get_segment(name).await?,
    };
    let found = raw.len() as u64;
    if found < valid || found > size {
        return Ok(Err(FetchError::Short {
            file: name.to_string(),
            found,
            needed: valid,
        }));
    }
    if valid == size {
        return Ok(Ok(raw));
    }
    // Both fit: a segment has at most a gibibyte.
    let mut padded = raw[..valid as usize].to_vec();
    padded.resize(size as usize, 0);
    Ok(Ok(padded.into()))
}

/// Whether recovery will ask for the segment of an older timeline when it is told that this one is absent.
fn has_older(served: &ServedWal, name: SegmentName) -> bool {
    served
        .segments(name.number(served.size()))
        .last()
        .is_some_and(|oldest| *oldest != name)
}

fn is_last(served: &ServedWal, name: SegmentName) -> bool {
    name.end(served.size()) >= served.end() && name.start(served.size()) < served.end()
}

/// How much of the plan's WAL has been taken, for progress.
#[must_use]
pub fn taken_bytes(taken: &AtomicU64, served: &ServedWal) -> u64 {
    let taken = Lsn(taken.load(Ordering::Relaxed)).min(served.end());
    taken.bytes_since(served.start())
}

#[cfg(test)]
mod tests;
