//! Reads everything that a backup needs and checks every digest, without writing anything.
//!
//! Packs are read whole, so that damage between chunks is found too; memory is `PARALLEL` packs.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use pg_format::SegmentName;

use crate::backup::{Entry, EntryPath, PartReader, check_header, decode_chunk};
use crate::materialise::{Wanted, wanted};
use crate::{BranchReader, Digest, ErrorClass, Manifest, Progress, RepositoryError, Result};

/// Packs that are read and checked at once.
const PARALLEL: usize = 2;
/// Problems that are named; further ones are only counted.
const NAMED_PROBLEMS: usize = 1000;

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Chunks whose bytes were checked.
    pub chunks: u64,
    /// Bytes that were read from the repository.
    pub read_bytes: u64,
    /// WAL segments, from the backup's start to its stop, that were checked.
    pub segments: u64,
    /// What is wrong, at most 1000 of it.
    pub problems: Vec<Problem>,
    /// Problems in all.
    pub problem_count: u64,
}

/// Something of a backup is not what was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The object.
    pub key: String,
    /// The file that cannot be restored, when it is one.
    pub file: Option<EntryPath>,
    /// What is wrong with it.
    pub reason: String,
}

impl VerifyReport {
    /// Every byte is there and is what was stored.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.problem_count == 0
    }

    fn note(&mut self, key: &str, file: Option<&EntryPath>, error: &RepositoryError) {
        self.problem_count += 1;
        if self.problems.len() < NAMED_PROBLEMS {
            let (key, file, reason) = (key.to_owned(), file.cloned(), error.to_string());
            self.problems.push(Problem { key, file, reason });
        }
    }
}

/// The chunks of one pack that a part of the index refers to.
struct PackCheck {
    pack: u32,
    key: String,
    chunks: Vec<Wanted>,
}

/// What became of one [`PackCheck`].
struct Checked {
    key: String,
    raw_bytes: u64,
    read_bytes: u64,
    chunks: u64,
    /// By entry; `None` for the pack itself.
    failures: Vec<(Option<usize>, RepositoryError)>,
}

impl BranchReader {
    /// Checks that the backup can be restored: index, packs, and the WAL from its start to its stop.
    ///
    /// Damage and absence go into the report.
    ///
    /// # Errors
    /// The store could not be asked; then nothing is known about the backup.
    pub async fn verify(
        &self,
        manifest: &Manifest,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        self.verify_files(manifest, None, &mut report, progress)
            .await?;
        self.verify_wal(manifest, &mut report).await?;
        let total_bytes = manifest.totals.logical_bytes;
        progress(Progress {
            bytes: total_bytes,
            total_bytes,
        });
        Ok(report)
    }

    /// The same of one object, and of the index that leads to it: for whoever could not use it and wants to be sure.
    ///
    /// What is found is damage of the backup; that nothing is found says only that this object is right now.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub async fn verify_object(&self, manifest: &Manifest, key: &str) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        self.verify_files(manifest, Some(key), &mut report, &|_| {})
            .await?;
        Ok(report)
    }

    /// Index and packs; with `only`, of the packs the one of that key.
    async fn verify_files(
        &self,
        manifest: &Manifest,
        only: Option<&str>,
        report: &mut VerifyReport,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<()> {
        let mut bytes = 0;
        let total_bytes = manifest.totals.logical_bytes;
        let mut parts = PartReader::new(self, manifest);
        loop {
            let entries = match parts.next().await {
                Ok(Some(entries)) => entries,
                Ok(None) => break,
                Err(error) => {
                    // Without this part nothing adds up any more: the rest is not worth reading.
                    report.note(&key_of(&error), None, &is_finding(error)?);
                    break;
                }
            };
            let mut checks = by_pack(&entries, |pack| parts.pack_key(pack));
            checks.retain(|check| only.is_none_or(|key| check.key == key));
            let checks = checks
                .into_iter()
                .map(|check| self.check_pack(manifest, check));
            let mut checked = futures::stream::iter(checks).buffer_unordered(PARALLEL);
            while let Some(checked) = checked.try_next().await? {
                for (entry, error) in &checked.failures {
                    report.note(&checked.key, entry.map(|entry| &entries[entry].path), error);
                }
                report.chunks += checked.chunks;
                report.read_bytes += checked.read_bytes;
                bytes += checked.raw_bytes;
                progress(Progress { bytes, total_bytes });
            }
        }
        Ok(())
    }

    async fn check_pack(&self, manifest: &Manifest, check: PackCheck) -> Result<Checked> {
        let pack = &manifest.packs[check.pack as usize];
        let digest = pack.digest;
        match self
            .store
            .get_range(&check.key, 0..pack.bytes, pack.bytes)
            .await
        {
            Ok(stored) => {
                let task =
                    tokio::task::spawn_blocking(move || check_chunks(check, digest, &stored));
                task.await
                    .map_err(|error| RepositoryError::task("check", "a pack", error))
            }
            Err(error) => {
                let failures = vec![(None, is_finding(error)?)];
                let key = check.key;
                Ok(Checked {
                    key,
                    raw_bytes: 0,
                    read_bytes: 0,
                    chunks: 0,
                    failures,
                })
            }
        }
    }

    /// The last segment may still be open: then its `.partial` must reach the stop.
    async fn verify_wal(&self, manifest: &Manifest, report: &mut VerifyReport) -> Result<()> {
        let summary = &manifest.summary;
        let size = summary.wal_segment_size;
        let last = size.segment_ending_at(summary.stop_lsn);
        for number in size.segment_of(summary.start_lsn)..=last {
            let name = SegmentName::new(summary.timeline, number, size);
            let mut found = self.get_segment(name).await;
            if number == last && found.as_ref().is_err_and(RepositoryError::is_absent) {
                let reaches = |raw: &Bytes| {
                    name.start(size).saturating_add(raw.len() as u64) >= summary.stop_lsn
                };
                if let Some(partial) =
                    RepositoryError::absent_as_none(self.get_partial(name).await)?
                    && reaches(&partial)
                {
                    found = Ok(partial);
                }
            }
            match found {
                Ok(raw) => {
                    report.segments += 1;
                    report.read_bytes += raw.len() as u64;
                }
                Err(error) => {
                    report.note(&self.layout.segment(name), None, &is_finding(error)?);
                }
            }
        }
        Ok(())
    }
}

/// Damage and absence are findings; anything else means that the store was not really asked.
fn is_finding(error: RepositoryError) -> Result<RepositoryError> {
    match error.class() {
        ErrorClass::Absent | ErrorClass::Corrupt => Ok(error),
        _ => Err(error),
    }
}

fn key_of(error: &RepositoryError) -> String {
    match error {
        RepositoryError::Absent { key } | RepositoryError::Corrupt { key, .. } => key.clone(),
        _ => String::new(),
    }
}

fn by_pack(entries: &[Entry], key: impl Fn(u32) -> String) -> Vec<PackCheck> {
    let mut checks: Vec<PackCheck> = Vec::new();
    for wanted in wanted(entries) {
        let pack = wanted.chunk.pack;
        match checks.last_mut() {
            Some(check) if check.pack == pack => check.chunks.push(wanted),
            _ => checks.push(PackCheck {
                pack,
                key: key(pack),
                chunks: vec![wanted],
            }),
        }
    }
    checks
}

fn check_chunks(check: PackCheck, digest: Digest, stored: &Bytes) -> Checked {
    let PackCheck { key, chunks, .. } = check;
    let read_bytes = stored.len() as u64;
    let mut checked = Checked {
        key,
        raw_bytes: 0,
        read_bytes,
        chunks: 0,
        failures: Vec::new(),
    };
    let key = checked.key.clone();
    if let Err(error) = check_header(&key, stored) {
        checked.failures.push((None, error));
    } else if Digest::of(stored) != digest {
        let error = RepositoryError::corrupt(&key, "its digest is not the one in the manifest");
        checked.failures.push((None, error));
    }
    for wanted in chunks {
        let begin = wanted.chunk.offset as usize;
        let slice = stored.slice(begin..begin + wanted.chunk.stored_bytes as usize);
        match decode_chunk(&key, &wanted.chunk, slice) {
            Ok(raw) => {
                checked.chunks += 1;
                checked.raw_bytes += raw.len() as u64;
            }
            Err(error) => checked.failures.push((Some(wanted.entry), error)),
        }
    }
    checked
}
