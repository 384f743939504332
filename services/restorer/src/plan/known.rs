//! The WAL as far as a plan knows it: the commit-time index, and of some short stretches what their records are. Pure.
//!
//! The index says in which interval something lies, the records say where exactly. Whoever asks for more than is known
//! is told what to read ([`Missing`]); the shell reads it, adds it and asks again, with the same question.
//!
//! What must stay true: nothing is answered from an index that does not reach from end to end of what was asked about.

use std::ops::Range;

use pg_format::wal::{Parameters, RecordContent, TransactionEndKind, WalRecord};
use pg_format::{Lsn, PgTimestamp, WalSegmentSize};
use wal_index::{
    Bounds, Interval, ResolveError, Resolved, Search, SegmentIndex, Step, Target, TransactionEnd,
    WalEvent,
};

/// Records between the last transaction end and the first one too many are looked through up to so many bytes.
const MOST_SCANNED: u64 = 64 << 20;

/// Where a record begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its first byte.
    pub start: Lsn,
    /// The byte after its last, alignment included.
    pub end: Lsn,
}

/// What must be known before the question can be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The index of this WAL.
    Index(Range<Lsn>),
    /// The records that begin in this WAL, and the first that begins at `at` or later.
    Records {
        /// From the beginning of a record up to where no further one may begin.
        range: Range<Lsn>,
        /// Within the range.
        at: Lsn,
    },
    /// Nothing that reading mends: the index is not of this WAL.
    Contradicted(ResolveError),
}

/// What the records that begin in a stretch of WAL are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    range: Range<Lsn>,
    at: Lsn,
    ends: Vec<TransactionEnd>,
    prepared: Vec<Place>,
    /// Where transactions end that were prepared before.
    prepared_ends: Vec<Lsn>,
    /// Where records begin behind which the rest of the segment is unused.
    switches: Vec<Lsn>,
    first: Option<Place>,
    last: Option<Place>,
}

impl Stretch {
    /// To be filled by [`Self::observe`] with every record that begins in `range`.
    #[must_use]
    pub fn new(range: Range<Lsn>, at: Lsn) -> Self {
        Stretch {
            range,
            at,
            ends: Vec::new(),
            prepared: Vec::new(),
            prepared_ends: Vec::new(),
            switches: Vec::new(),
            first: None,
            last: None,
        }
    }

    /// The WAL whose records are to be taken in.
    #[must_use]
    pub fn range(&self) -> Range<Lsn> {
        self.range.clone()
    }

    /// Takes a record in; those outside of the range are passed over.
    pub fn observe(&mut self, record: &WalRecord<'_>) {
        let place = Place {
            start: record.start,
            end: record.end,
        };
        let prepared = matches!(record.content(), Ok(RecordContent::Prepare(_)));
        self.note(place, end_of(record), prepared);
        let kind = record.transaction_end().ok().flatten().map(|end| end.kind);
        if let Some(TransactionEndKind::CommitPrepared | TransactionEndKind::AbortPrepared) = kind
            && self.range.contains(&place.start)
        {
            self.prepared_ends.push(place.start);
        }
        if record.header.is_switch() && self.range.contains(&place.start) {
            self.switches.push(place.start);
        }
    }

    /// Takes in what a record is.
    pub(super) fn note(&mut self, place: Place, end: Option<TransactionEnd>, prepared: bool) {
        if !self.range.contains(&place.start) {
            return;
        }
        if place.start >= self.at && self.first.is_none() {
            self.first = Some(place);
        }
        self.last = Some(place);
        self.ends.extend(end);
        if prepared {
            self.prepared.push(place);
        }
    }
}

/// When and how a record ends a transaction, if it does.
fn end_of(record: &WalRecord<'_>) -> Option<TransactionEnd> {
    let kind = record.transaction_end().ok().flatten()?;
    let xid = match record.content() {
        Ok(RecordContent::Commit(commit)) => commit.xid,
        Ok(RecordContent::Abort(abort)) => abort.xid,
        _ => None,
    };
    Some(TransactionEnd {
        lsn: record.start,
        end: record.end,
        time: kind.time,
        xid: xid.unwrap_or(0),
        committed: matches!(
            kind.kind,
            TransactionEndKind::Commit | TransactionEndKind::CommitPrepared
        ),
    })
}

/// What is known.
#[derive(Clone, Debug, Default)]
pub struct KnownWal {
    segments: Vec<SegmentIndex>,
    asked: Vec<Range<Lsn>>,
    stretches: Vec<Stretch>,
}

impl KnownWal {
    /// Adds the index of `range`, in order: all of it that can be had.
    pub fn add_index(&mut self, range: Range<Lsn>, segments: Vec<SegmentIndex>) {
        self.asked.push(range);
        self.segments.extend(segments);
        self.segments.sort_by_key(|one| (one.start, one.end));
        self.segments.dedup_by_key(|one| one.start);
    }

    /// Adds a stretch.
    pub fn add_stretch(&mut self, stretch: Stretch) {
        self.stretches.push(stretch);
    }

    /// The end of the WAL from `from` on of which the index is known without a hole, at most `to`.
    ///
    /// # Errors
    /// It was never asked for.
    pub fn indexed_to(&self, from: Lsn, to: Lsn) -> Result<Lsn, Missing> {
        let asked = |asked: &&Range<Lsn>| asked.start <= from && asked.end >= to;
        if self.asked.iter().find(asked).is_none() {
            return Err(Missing::Index(from..to));
        }
        let mut reach = from;
        for segment in &self.segments {
            if segment.start > reach {
                break;
            }
            reach = reach.max(segment.end);
        }
        Ok(reach.min(to))
    }

    /// The beginning of the WAL before `lsn` of which the index is known without a hole.
    #[must_use]
    pub fn indexed_from(&self, lsn: Lsn) -> Lsn {
        let mut begin = lsn;
        for segment in self.segments.iter().rev() {
            if segment.start < begin && segment.end >= begin {
                begin = segment.start;
            }
        }
        begin
    }

    fn intervals(&self, range: Range<Lsn>) -> impl DoubleEndedIterator<Item = &Interval> {
        let first = self.segments.partition_point(|one| one.end <= range.start);
        let last = self.segments.partition_point(|one| one.start < range.end);
        let segments = self.segments.get(first..last).unwrap_or_default();
        segments
            .iter()
            .flat_map(|segment| &segment.intervals)
            .filter(move |one| one.start < range.end && one.end > range.start)
    }

    fn events(&self, range: Range<Lsn>) -> impl DoubleEndedIterator<Item = &WalEvent> {
        self.segments
            .iter()
            .flat_map(|segment| &segment.events)
            .filter(move |event| range.contains(&event.lsn()))
    }

    /// The first restore point of this name that begins in `range`.
    #[must_use]
    pub fn restore_point(&self, wanted: &str, range: Range<Lsn>) -> Option<Place> {
        self.events(range).find_map(|event| match event {
            WalEvent::RestorePoint { lsn, end, name, .. } if name == wanted => Some(Place {
                start: *lsn,
                end: *end,
            }),
            _ => None,
        })
    }

    /// The names of the restore points in `range`, in order.
    #[must_use]
    pub fn restore_points(&self, range: Range<Lsn>) -> Vec<&str> {
        let named = self.events(range).filter_map(|event| match event {
            WalEvent::RestorePoint { name, .. } => Some(name.as_str()),
            _ => None,
        });
        named.collect()
    }

    /// The changes of settings in `range`, and where.
    pub fn parameter_changes(&self, range: Range<Lsn>) -> impl Iterator<Item = (Lsn, &Parameters)> {
        self.events(range).filter_map(|event| match event {
            WalEvent::ParameterChange { lsn, parameters } => Some((*lsn, parameters)),
            _ => None,
        })
    }

    /// Databases whose files go away in `range`, by transactions that commit at `after` or later or not at all: their
    /// oids, and where the files go.
    #[must_use]
    pub fn dropped_without_commit(&self, range: Range<Lsn>, after: Lsn) -> Vec<(u32, Lsn)> {
        let committed = self.segments.iter().flat_map(|segment| &segment.events);
        let committed = committed.filter_map(|event| match event {
            WalEvent::Transaction(one) if one.commit.lsn >= after => Some(&one.dropped_databases),
            _ => None,
        });
        let open = self.segments.last().into_iter();
        let open = open.flat_map(|segment| segment.open.iter().map(|one| &one.dropped_databases));
        let mut dropped: Vec<(u32, Lsn)> = committed
            .chain(open)
            .flatten()
            .filter(|dropped| range.contains(&dropped.lsn))
            .map(|dropped| (dropped.database, dropped.lsn))
            .collect();
        dropped.sort_by_key(|(database, lsn)| (*lsn, *database));
        dropped.dedup();
        dropped
    }

    /// The stretch of a whole interval, or a longer one.
    fn stretch(&self, range: &Range<Lsn>) -> Result<&Stretch, Missing> {
        let holds = |one: &&Stretch| one.range.start <= range.start && one.range.end >= range.end;
        let missing = || Missing::Records {
            at: range.start,
            range: range.clone(),
        };
        self.stretches.iter().find(holds).ok_or_else(missing)
    }

    /// The transaction ends that begin in `range`.
    ///
    /// # Errors
    /// They must be read first.
    pub fn ends(&self, range: &Range<Lsn>) -> Result<&[TransactionEnd], Missing> {
        let ends = &self.stretch(range)?.ends;
        let first = ends.partition_point(|end| end.lsn < range.start);
        let last = ends.partition_point(|end| end.lsn < range.end);
        Ok(ends.get(first..last).unwrap_or_default())
    }

    /// Finds what a target means in the WAL of `range`, of which the index is known.
    ///
    /// # Errors
    /// The records of an interval must be read first.
    pub fn resolve(&self, target: Target, range: &Range<Lsn>) -> Result<Resolved, Missing> {
        let nothing = Resolved {
            last: None,
            last_commit: None,
            next: None,
        };
        if range.start >= range.end {
            return Ok(nothing);
        }
        let bounds = Bounds {
            from: range.start,
            to: range.end,
        };
        let mut search = Search::new(target, bounds);
        loop {
            match search.step(&self.segments) {
                Ok(Step::Read { start, end }) => {
                    search.supply(start, self.ends(&(start..end))?.to_vec());
                }
                Ok(Step::Found(resolved)) => return Ok(resolved),
                Ok(Step::NoSuchTransaction) => return Ok(nothing),
                Err(ResolveError::NotCovered { from, to }) => return Err(Missing::Index(from..to)),
                Err(differs @ ResolveError::Differs { .. }) => {
                    return Err(Missing::Contradicted(differs));
                }
            }
        }
    }

    /// The latest time of the transaction ends in `range`.
    ///
    /// # Errors
    /// The records of an interval must be read first.
    pub fn latest_time(&self, range: &Range<Lsn>) -> Result<Option<PgTimestamp>, Missing> {
        let mut latest = None;
        for interval in self.intervals(range.clone()) {
            let Some(ends) = &interval.ends else { continue };
            if interval.start >= range.start && interval.end <= range.end {
                latest = latest.max(Some(ends.max_time));
                continue;
            }
            let exact = self.ends(&(interval.start..interval.end))?;
            let within = exact.iter().filter(|end| range.contains(&end.lsn));
            latest = latest.max(within.map(|end| end.time).max());
        }
        Ok(latest)
    }

    /// The newest end of a transaction in `range`: its id may come again after a wraparound.
    ///
    /// # Errors
    /// The records of an interval must be read first.
    pub fn end_of(&self, xid: u32, range: &Range<Lsn>) -> Result<Option<TransactionEnd>, Missing> {
        let may_hold = |ends: &wal_index::Ends| (ends.min_xid..=ends.max_xid).contains(&xid);
        for segment in self.segments.iter().rev() {
            let mut intervals = segment.intervals.iter().filter(|one| {
                let within = one.start < range.end && one.end > range.start;
                within && one.ends.as_ref().is_some_and(may_hold)
            });
            let Some(first) = intervals.next() else {
                continue;
            };
            // A segment is read once, however many of its intervals may hold it.
            let last = intervals.next_back().unwrap_or(first);
            let ends = self.ends(&(first.start..last.end))?;
            let wanted = |end: &&TransactionEnd| end.xid == xid && range.contains(&end.lsn);
            if let Some(found) = ends.iter().rev().find(wanted) {
                return Ok(Some(*found));
            }
        }
        Ok(None)
    }

    /// The first record in `range`.
    ///
    /// # Errors
    /// The records of its interval must be read first.
    pub fn first_record(&self, range: &Range<Lsn>) -> Result<Option<Place>, Missing> {
        for interval in self.intervals(range.clone()) {
            let (within, at) = (
                interval.start..interval.end,
                range.start.max(interval.start),
            );
            let exact = |one: &&Stretch| one.range == within && one.at == at;
            let missing = || Missing::Records {
                at,
                range: within.clone(),
            };
            let stretch = self.stretches.iter().find(exact).ok_or_else(missing)?;
            if let Some(first) = stretch.first {
                return Ok((first.start < range.end).then_some(first));
            }
        }
        Ok(None)
    }

    /// Where a server that has replayed a record goes on to write: at its end, or in the next segment.
    #[must_use]
    pub fn goes_on(&self, record: Place, size: WalSegmentSize) -> Lsn {
        let switches = |one: &Stretch| one.switches.contains(&record.start);
        match self.stretches.iter().any(switches) {
            true => size.start_of(size.segment_ending_at(record.end) + 1),
            false => record.end,
        }
    }

    /// The last record in `range` that ends in it.
    ///
    /// # Errors
    /// As [`Self::first_record`].
    pub fn last_record(&self, range: &Range<Lsn>) -> Result<Option<Place>, Missing> {
        for interval in self.intervals(range.clone()).rev() {
            let within = interval.start..interval.end.min(range.end);
            let exact = |one: &&Stretch| one.range == within;
            let missing = || Missing::Records {
                at: within.start,
                range: within.clone(),
            };
            let stretch = self.stretches.iter().find(exact).ok_or_else(missing)?;
            if let Some(last) = stretch.last {
                return Ok((last.start >= range.start).then_some(last));
            }
        }
        Ok(None)
    }

    /// What must be replayed behind `from`, up to which everything is, to come out just before `bound`, when no
    /// transaction ends in between: see [`Self::last_prepared`]. Not what removes a database's files.
    ///
    /// # Errors
    /// The records must be read first.
    pub fn outlives(&self, from: Lsn, bound: Lsn) -> Result<Option<Place>, Missing> {
        let dropped = self.dropped_without_commit(from..bound, from);
        let bound = dropped.first().map_or(bound, |(_, lsn)| *lsn);
        self.last_prepared(&(from..bound))
    }

    /// Whether the record at `lsn` ends a transaction that was prepared before, and so still is just before the record.
    ///
    /// # Errors
    /// The records of its interval must be read first.
    pub fn ends_prepared(&self, lsn: Lsn) -> Result<bool, Missing> {
        let Some(interval) = self.intervals(lsn..lsn.saturating_add(1)).next() else {
            return Ok(false);
        };
        let stretch = self.stretch(&(interval.start..interval.end))?;
        Ok(stretch.prepared_ends.contains(&lsn))
    }

    /// What must be replayed of `range`, in which no transaction ends, so that nothing is lost that outlives a server:
    /// up to the last `PREPARE TRANSACTION`. Where it would be too much to look for one, up to the last record.
    ///
    /// # Errors
    /// The records must be read first.
    pub fn last_prepared(&self, range: &Range<Lsn>) -> Result<Option<Place>, Missing> {
        if range.start >= range.end {
            return Ok(None);
        }
        if range.end.bytes_since(range.start) > MOST_SCANNED {
            return self.last_record(range);
        }
        let mut touched = self.intervals(range.clone());
        let Some(first) = touched.next() else {
            return Ok(None);
        };
        let end = touched.last().unwrap_or(first).end;
        let stretch = self.stretch(&(first.start..end))?;
        let within = stretch.prepared.iter().rev();
        Ok(within.copied().find(|place| range.contains(&place.start)))
    }
}
