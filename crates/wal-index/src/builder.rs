//! Makes the index of each segment from its records.
//!
//! What comes out depends on the records and the threshold alone, not on where building began: all that is remembered
//! over a segment's end is in [`SegmentIndex::open`]. A record belongs to the segment it begins in, so a segment is
//! finished only when nothing that begins in it can come any more ([`IndexBuilder::advance`]).
//!
//! Memory is bounded. Over a segment's end at most 1000 transactions in flight are remembered, within a segment ten
//! times as many: beyond that, those are forgotten that changed least (dropped databases and created files count more
//! than rows). Of a transaction at most 1000 tables have their rows counted, and 20,000 files are listed; the others
//! are counted as "more". What is forgotten can lose a transaction's entry or make its rows too few, never the end of
//! a transaction.

mod interval;
mod open;
#[cfg(test)]
mod tests;

use std::collections::{HashSet, VecDeque};

use pg_format::wal::{
    CheckpointKind, RecordContent, RelationFile, ResourceManager, TransactionAbort,
    TransactionCommit, WalRecord,
};
use pg_format::{Lsn, WalSegmentSize};

use crate::model::{
    DroppedDatabase, Interval, OpenTransaction, SegmentIndex, TransactionEnd, TransactionEvent,
    WalEvent,
};
use interval::IntervalBuilder;
use open::OpenTransactions;

/// Files listed of one transaction.
const FILES: usize = 20_000;
/// `INIT_FORKNUM`: what an unlogged relation is made from after a crash.
const INIT_FORK: u8 = 3;

/// What the index is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexSettings {
    /// A transaction that deletes or updates at least so many rows of a table gets an entry.
    pub threshold_rows: u64,
}

impl Default for IndexSettings {
    fn default() -> Self {
        IndexSettings {
            threshold_rows: 100,
        }
    }
}

/// Commits that changed the catalogs, since somebody last asked: names of relations may have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatalogChanges {
    /// One of them created or dropped files of relations.
    pub files: bool,
    /// How many.
    pub commits: u64,
    /// Where the last one's record ends.
    pub end: Lsn,
}

/// Builds the index of one segment after the other.
#[derive(Debug)]
pub struct IndexBuilder {
    settings: IndexSettings,
    segment_size: WalSegmentSize,
    start: Lsn,
    seen: Lsn,
    intervals: Vec<Interval>,
    interval: IntervalBuilder,
    events: Vec<WalEvent>,
    undecoded: u32,
    open: OpenTransactions,
    finished: VecDeque<SegmentIndex>,
    changes: Option<CatalogChanges>,
    /// A file was created by a transaction that had no xid yet, and no commit since can have been its.
    unowned_file: bool,
}

impl IndexBuilder {
    /// A builder for the records that begin at `start` or later; `carry` is [`SegmentIndex::open`] of the segment that
    /// ends there, and empty where nothing before is known.
    #[must_use]
    pub fn new(
        settings: IndexSettings,
        segment_size: WalSegmentSize,
        start: Lsn,
        carry: Vec<OpenTransaction>,
    ) -> Self {
        IndexBuilder {
            settings,
            segment_size,
            start,
            seen: start,
            intervals: Vec::new(),
            interval: IntervalBuilder::new(start),
            events: Vec::new(),
            undecoded: 0,
            open: OpenTransactions::new(carry),
            finished: VecDeque::new(),
            changes: None,
            unowned_file: false,
        }
    }

    /// Takes the next record. Those that begin before what has been seen are passed over.
    pub fn observe(&mut self, record: &WalRecord<'_>) {
        if record.start < self.seen {
            return;
        }
        self.advance(record.start);
        self.seen = Lsn(record.start.0.saturating_add(1));
        match record.header.resource_manager {
            ResourceManager::TRANSACTION => self.transaction(record),
            ResourceManager::HEAP2 if !self.open.awaits_filling() => {}
            ResourceManager::XLOG
            | ResourceManager::STORAGE
            | ResourceManager::DATABASE
            | ResourceManager::HEAP
            | ResourceManager::HEAP2 => self.other(record),
            _ => {}
        }
    }

    /// Says that every record that begins before `position` has been observed: finishes the segments that end there
    /// or before. With a [`WalReader`](pg_format::wal::WalReader) that is `unfinished_record()`, or `position()` when
    /// there is none.
    pub fn advance(&mut self, position: Lsn) {
        while position >= self.segment_end() {
            let end = self.segment_end();
            self.interval.close(end, &mut self.intervals);
            let segment = SegmentIndex {
                segment: self.segment_size.segment_of(self.start),
                start: self.start,
                end,
                intervals: std::mem::take(&mut self.intervals),
                events: std::mem::take(&mut self.events),
                open: self.open.carry(),
                undecoded: std::mem::take(&mut self.undecoded),
            };
            self.finished.push_back(segment);
            self.start = end;
        }
        self.seen = self.seen.max(position);
    }

    /// The next finished segment.
    pub fn take_finished(&mut self) -> Option<SegmentIndex> {
        self.finished.pop_front()
    }

    /// What the index says of the segment that is not finished, up to `end`: the end of what was fed, or of the last
    /// whole record.
    #[must_use]
    pub fn unfinished(&self, end: Lsn) -> SegmentIndex {
        let end = end.clamp(self.interval.start(), self.segment_end());
        let mut intervals = self.intervals.clone();
        self.interval.clone().close(end, &mut intervals);
        SegmentIndex {
            segment: self.segment_size.segment_of(self.start),
            start: self.start,
            end,
            intervals,
            events: self.events.clone(),
            open: self.open.snapshot(),
            undecoded: self.undecoded,
        }
    }

    /// Commits that changed the catalogs since the last call.
    pub fn take_catalog_changes(&mut self) -> Option<CatalogChanges> {
        self.changes.take()
    }

    fn segment_end(&self) -> Lsn {
        let number = self.segment_size.segment_of(self.start);
        self.segment_size.start_of(number.saturating_add(1))
    }

    fn transaction(&mut self, record: &WalRecord<'_>) {
        let content = match record.content() {
            Ok(content) => content,
            Err(_) => {
                self.undecoded = self.undecoded.saturating_add(1);
                if let Some(end) = TransactionEnd::of_undecoded(record) {
                    let _ = self.open.remove(end.xid);
                    self.end(end);
                }
                return;
            }
        };
        let end = TransactionEnd::of_content(record, &content);
        match (&content, end) {
            (RecordContent::Commit(commit), Some(end)) => self.commit(end, commit),
            (RecordContent::Abort(abort), _) => self.abort(abort),
            (RecordContent::Prepare(prepared), _) => {
                let subtransactions = prepared.subtransactions.iter();
                self.open.prepare(prepared.xid, subtransactions);
            }
            _ => {}
        }
        if let Some(end) = end {
            self.end(end);
        }
    }

    fn end(&mut self, end: TransactionEnd) {
        self.interval.add(end);
        if self.interval.is_full(end.end) && end.end < self.segment_end() {
            self.interval.close(end.end, &mut self.intervals);
        }
    }

    fn abort(&mut self, abort: &TransactionAbort<'_>) {
        for xid in abort.subtransactions.iter().chain(abort.xid) {
            let _ = self.open.remove(xid);
        }
    }

    fn commit(&mut self, end: TransactionEnd, commit: &TransactionCommit<'_>) {
        let xids = commit.xid.into_iter().chain(commit.subtransactions.iter());
        let done = self.open.take(xids);
        let mut dropped: Vec<RelationFile> = commit.dropped_files.iter().take(FILES).collect();
        let not_listed = commit.dropped_files.len().saturating_sub(FILES);
        let mut dropped_more = u32::try_from(not_listed).unwrap_or(u32::MAX);
        if commit.truncated && !commit.dropped_files.is_empty() {
            // The rest of the list may be among what was not kept of the record.
            dropped_more = dropped_more.saturating_add(1);
        }
        let mut created = done.created;
        if !created.is_empty() && !dropped.is_empty() {
            let gone: HashSet<_> = dropped.iter().copied().collect();
            let own: HashSet<_> = created.iter().map(|created| created.file).collect();
            created.retain(|created| !gone.contains(&created.file));
            dropped.retain(|file| !own.contains(file));
        }
        let files = !dropped.is_empty() || !created.is_empty() || dropped_more > 0;
        self.note_change(end.end, files, commit.invalidations > 0);
        let threshold = self.settings.threshold_rows;
        let many = |count: u64| count >= threshold && count > 0;
        let mut rows = done.rows;
        rows.retain(|rows| many(rows.deleted) || many(rows.updated));
        let databases = !done.dropped_databases.is_empty();
        if !files && !databases && rows.is_empty() && done.truncated.is_empty() {
            return;
        }
        let ends = self.interval.ends();
        self.events.push(WalEvent::Transaction(TransactionEvent {
            commit: end,
            previous: ends.map(|ends| ends.last),
            latest_before: ends.map(|ends| ends.max_time),
            database: commit.database.map(|database| database.database),
            dropped,
            dropped_more,
            created,
            created_more: done.created_more,
            dropped_databases: done.dropped_databases,
            truncated: done.truncated,
            rows,
        }));
    }

    fn note_change(&mut self, end: Lsn, files: bool, catalogs: bool) {
        let unowned = catalogs && std::mem::take(&mut self.unowned_file);
        if files || catalogs {
            let changes = self.changes.get_or_insert(CatalogChanges {
                files: false,
                commits: 0,
                end,
            });
            changes.files |= files || unowned;
            changes.commits = changes.commits.saturating_add(1);
            changes.end = end;
        }
    }

    fn other(&mut self, record: &WalRecord<'_>) {
        let (lsn, xid) = (record.start, record.header.xid);
        match record.content() {
            Ok(RecordContent::HeapDelete(file)) => {
                self.open.rows(xid, file, |rows| &mut rows.deleted);
            }
            Ok(RecordContent::HeapUpdate(file)) => {
                self.open.rows(xid, file, |rows| &mut rows.updated);
                self.open.fill(file);
            }
            Ok(RecordContent::HeapInsert(file)) => self.open.fill(file),
            Ok(RecordContent::FullPageImage) => self.full_pages(record),
            Ok(RecordContent::FileCreated { file, fork: 0 }) => {
                self.unowned_file |= xid == 0;
                self.open.created(xid, file);
            }
            // All that the WAL says of an unlogged relation's file; nothing is ever written to that through the WAL.
            Ok(RecordContent::FileCreated {
                file,
                fork: INIT_FORK,
            }) => {
                self.unowned_file |= xid == 0;
                self.open.created_unlogged(xid, file);
            }
            Ok(RecordContent::HeapTruncate {
                database,
                relations,
            }) => self.open.truncated(xid, database, relations.iter()),
            Ok(RecordContent::DropDatabase { database, .. }) => {
                // Without a transaction it is the end of a database's move to another tablespace.
                self.open
                    .dropped_database(xid, DroppedDatabase { database, lsn });
            }
            Ok(content) => self.server_event(record, content),
            Err(_) => self.undecoded = self.undecoded.saturating_add(1),
        }
    }

    fn full_pages(&mut self, record: &WalRecord<'_>) {
        if !self.open.awaits_filling() {
            return;
        }
        let Ok(body) = record.body() else { return };
        for block in body.blocks().filter(|block| block.fork == 0) {
            self.open.fill(block.relation);
        }
    }

    fn server_event(&mut self, record: &WalRecord<'_>, content: RecordContent<'_>) {
        let lsn = record.start;
        let event = match content {
            RecordContent::RestorePoint { name, time } => WalEvent::RestorePoint {
                lsn,
                end: record.end,
                time,
                name: name.to_string(),
            },
            RecordContent::ParameterChange(parameters) => {
                WalEvent::ParameterChange { lsn, parameters }
            }
            RecordContent::Checkpoint(checkpoint)
                if checkpoint.kind == CheckpointKind::Shutdown =>
            {
                self.open.server_ended();
                WalEvent::ShutdownCheckpoint {
                    lsn,
                    time: checkpoint.time,
                    timeline: checkpoint.timeline,
                    previous_timeline: checkpoint.previous_timeline,
                }
            }
            RecordContent::EndOfRecovery {
                time,
                timeline,
                previous_timeline,
            } => {
                self.open.server_ended();
                WalEvent::EndOfRecovery {
                    lsn,
                    time,
                    timeline,
                    previous_timeline,
                }
            }
            _ => return,
        };
        self.events.push(event);
    }
}
