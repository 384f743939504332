//! From validated bytes to stored segments: spool, hold, upload, account.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pg_format::wal::{TransactionEndKind, WalBlockSize, WalReader, WalReaderConfig, WalRecord};
use pg_format::{Lsn, SegmentName, TimelineId, WalSegmentSize};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::changes::Changes;
use super::task::{Done, Task};
use crate::confirm::Ledger;
use crate::error::ArchiveError;
use crate::known_beginning::KnownBeginning;
use crate::proof::CommitTime;
use crate::segment_spool::SegmentSpool;
use crate::session::{BranchContext, Opening};
use crate::uploader::{Superseded, Uploader};

/// After a `.partial` that took a second to store, the next one waits for three: storing large open
/// segments again and again must not be all that the store does.
const PARTIAL_REST: u32 = 3;

/// Between two pieces of an archived segment, other tasks get their turn.
const READ_AT_ONCE: usize = 1 << 20;

/// A segment in the spool, and whether its own object has replaced its `.partial`.
#[derive(Clone)]
pub(crate) struct OpenFile {
    pub(crate) spool: SegmentSpool,
    pub(crate) superseded: Superseded,
}

/// One timeline's WAL on its way into the repository.
pub(super) struct Pipeline {
    uploader: Uploader,
    spool_directory: Arc<PathBuf>,
    timeline: TimelineId,
    size: WalSegmentSize,
    reader: WalReader,
    pub(super) ledger: Ledger,
    /// The first byte that has not come.
    next: Lsn,
    /// Commits of what was received last, for [`crate::proof`].
    pub(super) commits: Vec<CommitTime>,
    /// What of the names of relations it may have changed.
    pub(super) changes: Changes,
    open: Option<OpenFile>,
    /// Complete, but the record across its end is not.
    held: Option<OpenFile>,
    /// Segments that were complete when the session began.
    archived: BTreeSet<SegmentName>,
    /// Segments that have, or may have, a `.partial`.
    partials: BTreeSet<SegmentName>,
    /// What is stored of the first segment is repeated by the stream, and is not replaced by less.
    known: Option<KnownBeginning>,
    partial_floor: Lsn,
    /// How far a `.partial` was begun to be stored, and when, while one is on its way.
    partial_begun: Lsn,
    partial_running: Option<Instant>,
    partial_not_before: Instant,
    pub(super) tasks: JoinSet<Result<Done, ArchiveError>>,
}

impl Pipeline {
    /// A pipeline whose reader has read the segment before, so that the first record is checked too.
    pub(super) async fn new(
        branch: &BranchContext,
        opening: &Opening<'_>,
        server_major: u32,
    ) -> Result<Self, ArchiveError> {
        let (size, start) = (branch.branch.wal_segment_size, opening.start);
        let before = opening.before.as_ref();
        let before = before.map_or(&[][..], |before| &before.bytes[..]);
        let mut reader = WalReader::new(WalReaderConfig {
            start: Lsn(start.0 - before.len() as u64),
            history: opening.own_history.clone(),
            system_identifier: branch.branch.system_identifier,
            segment_size: size,
            block_size: WalBlockSize::DEFAULT,
            server_major,
        })?;
        for piece in before.chunks(READ_AT_ONCE) {
            reader.feed(piece)?;
            tokio::task::yield_now().await;
        }
        let known = opening.known.clone();
        let stored = known.as_ref().map_or(0, KnownBeginning::length);
        Ok(Pipeline {
            uploader: branch.uploader.clone(),
            spool_directory: Arc::clone(&branch.spool_directory),
            timeline: opening.timeline,
            size,
            reader,
            ledger: Ledger::new(size, start),
            next: start,
            commits: Vec::new(),
            changes: Changes::default(),
            open: None,
            held: None,
            archived: opening.archived.clone(),
            partials: opening.partials.clone(),
            known,
            partial_floor: start.saturating_add(stored),
            partial_begun: start,
            partial_running: None,
            partial_not_before: Instant::now(),
            tasks: JoinSet::new(),
        })
    }

    /// The first byte that has not come.
    pub(super) fn next(&self) -> Lsn {
        self.next
    }

    /// Takes the next bytes.
    pub(super) async fn receive(
        &mut self,
        start: Lsn,
        mut bytes: Bytes,
    ) -> Result<(), ArchiveError> {
        if start != self.next {
            return Err(ArchiveError::Discontinuous {
                found: start,
                expected: self.next,
            });
        }
        while !bytes.is_empty() {
            let missing = self.size.bytes() - self.size.offset_in_segment(self.next);
            let length = usize::try_from(missing)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            let piece = bytes.split_to(length);
            self.read(&piece)?;
            if let Some(known) = &mut self.known {
                known.follow(&piece)?;
            }
            let open = match &mut self.open {
                Some(open) => open,
                empty => {
                    let name = SegmentName::containing(self.timeline, self.next, self.size);
                    let spool =
                        SegmentSpool::create(&self.spool_directory, name, self.size).await?;
                    empty.insert(OpenFile {
                        spool,
                        superseded: Superseded::default(),
                    })
                }
            };
            open.spool.append(piece).await?;
            self.next = open.spool.end();
            let complete = open.spool.missing() == 0;
            self.release_held();
            if complete {
                self.complete();
            }
        }
        Ok(())
    }

    /// Validates bytes and looks at the records that they complete.
    fn read(&mut self, piece: &[u8]) -> Result<(), ArchiveError> {
        let (commits, changes) = (&mut self.commits, &mut self.changes);
        self.reader.feed_each(piece, |record| {
            commits.extend(commit_of(record));
            changes.observe(record);
        })?;
        Ok(())
    }

    /// The open segment is complete: stored now, or held until the record across its end is valid.
    fn complete(&mut self) {
        let Some(complete) = self.open.take() else {
            return;
        };
        if let Some(held) = self.held.take() {
            self.begin_segment(held);
        }
        match self.reader.unfinished_record() {
            Some(record) if record < self.next => self.held = Some(complete),
            _ => self.begin_segment(complete),
        }
    }

    fn release_held(&mut self) {
        let end = self.held.as_ref().map(|held| held.spool.end());
        let unfinished = self.reader.unfinished_record();
        if end.is_some_and(|end| unfinished.is_none_or(|record| record >= end)) {
            self.give_up_holding();
        }
    }

    fn give_up_holding(&mut self) {
        if let Some(held) = self.held.take() {
            self.begin_segment(held);
        }
    }

    fn begin_segment(&mut self, file: OpenFile) {
        self.ledger.segment_begun();
        let has_partial = self.partials.contains(&file.spool.name());
        self.begin(Task::Segment { file, has_partial });
    }

    /// Stores what has come of the segment that is not complete, unless the last time was too slow.
    pub(super) fn begin_partial(&mut self) {
        if Instant::now() >= self.partial_not_before {
            self.begin_partial_now();
        }
    }

    /// Stores what has come of the segment that is not complete, if there is more than is stored.
    pub(super) fn begin_partial_now(&mut self) {
        let Some(file) = self.held.as_ref().or(self.open.as_ref()) else {
            return;
        };
        let end = file.spool.end();
        let more = end > self.partial_begun && end >= self.partial_floor;
        if self.partial_running.is_some() || !more {
            return;
        }
        let file = file.clone();
        self.partial_running = Some(Instant::now());
        self.partial_begun = end;
        let _ = self.partials.insert(file.spool.name());
        self.begin(Task::Partial { file });
    }

    /// A `.partial` was stored up to `end`, or overtaken by its segment.
    pub(super) fn partial_done(&mut self, end: Option<Lsn>) {
        if let Some(begun) = self.partial_running.take() {
            self.partial_not_before = Instant::now() + begun.elapsed() * PARTIAL_REST;
        }
        if let Some(end) = end {
            self.ledger.partial_stored(end);
        }
    }

    /// What has come of the segment that is not complete.
    pub(super) fn open_spool(&self) -> Option<SegmentSpool> {
        self.open.as_ref().map(|open| open.spool.clone())
    }

    /// What has come of the segment after a stored one, if that is the open one.
    pub(super) fn following(&self, stored: &SegmentSpool) -> Option<SegmentSpool> {
        let next = stored.name().next(self.size);
        self.open_spool().filter(|open| open.name() == next)
    }

    /// The timeline has ended: nothing is waited for any more.
    pub(super) fn end(&mut self) {
        self.give_up_holding();
    }

    /// After [`Self::end`]: stores the rest; true once there is nothing left to do.
    pub(super) fn is_finished(&mut self) -> bool {
        let stored = self.open.as_ref().is_none_or(|open| {
            let end = open.spool.end();
            self.archived.contains(&open.spool.name())
                || end < self.partial_floor
                || end <= self.partial_begun
        });
        if !stored {
            self.begin_partial_now();
        }
        stored && self.tasks.is_empty()
    }

    /// Waits, but not for long, until nothing is on its way to the store.
    pub(super) async fn settle(&mut self, limit: Duration) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _in_time = tokio::time::timeout(limit, all).await;
    }

    pub(super) fn begin(&mut self, task: Task) {
        let span = tracing::Span::current();
        let work = task.run(self.uploader.clone());
        drop(
            self.tasks
                .spawn(tracing::Instrument::instrument(work, span)),
        );
    }
}

/// The commit that a record is, if it is one.
fn commit_of(record: &WalRecord<'_>) -> Option<CommitTime> {
    // A record that is valid and yet not understood is not archived less for it.
    let end = record.transaction_end().ok().flatten()?;
    let committed = matches!(
        end.kind,
        TransactionEndKind::Commit | TransactionEndKind::CommitPrepared
    );
    committed.then_some(CommitTime {
        lsn: record.start,
        time: end.time,
    })
}
