//! Finds the transaction end that a recovery target means, exactly.
//!
//! Commit times are taken before their records are inserted, so a time is not a position: PostgreSQL compares a time
//! target with every transaction end from where replay begins, and stops before the first one that is *later*. A
//! [`Search`] walks the intervals in the same order. Where an interval's figures cannot decide, it says which records
//! to read ([`Step::Read`]), is told their transaction ends ([`Search::supply`]), and goes on. At most three intervals
//! are read for a time or a position; for an xid, those in whose range of xids it is, up to the right one.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use pg_format::{Lsn, PgTimestamp};

use crate::model::{Commit, Ends, Interval, SegmentIndex, TransactionEnd};

/// What to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The last transaction end before the first one later than this, as PostgreSQL's inclusive time target.
    Time(PgTimestamp),
    /// The first end of this transaction, as PostgreSQL's inclusive xid target.
    Transaction(u32),
    /// The last transaction end that begins before this position: nothing from there on is replayed.
    Before(Lsn),
    /// The last transaction end that begins at or before this position.
    Through(Lsn),
    /// The last transaction end.
    Latest,
}

/// The WAL that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Where replay begins (the backup's start LSN): records that begin before are not looked at.
    pub from: Lsn,
    /// Where the WAL ends: records that end after it are not there.
    pub to: Lsn,
}

/// What was found: where to stop, and what is then in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The last transaction end to replay. Its start, as an inclusive LSN target, is where to stop. `None` if no
    /// transaction end is to be replayed: then consistency is.
    pub last: Option<TransactionEnd>,
    /// The last commit to replay; `None` if it is older than where replay begins.
    pub last_commit: Option<Commit>,
    /// The first transaction end that is not replayed; `None` if there is none, or nobody looked for it
    /// ([`Target::Transaction`]).
    pub next: Option<TransactionEnd>,
}

impl Resolved {
    /// The inclusive LSN target.
    #[must_use]
    pub fn stop(&self) -> Option<Lsn> {
        self.last.map(|last| last.lsn)
    }

    /// Where the last record that is needed ends.
    #[must_use]
    pub fn stop_end(&self) -> Option<Lsn> {
        self.last.map(|last| last.end)
    }

    /// How to stop there with a backup that is consistent from `consistent` (its stop LSN) on.
    #[must_use]
    pub fn stop_with(&self, consistent: Lsn) -> Stop {
        match (self.last, self.next) {
            (_, Some(next)) if next.lsn < consistent => Stop::BeforeConsistency,
            (Some(last), _) if last.lsn >= consistent => Stop::At(last.lsn),
            _ => Stop::Consistency,
        }
    }
}

/// How to tell recovery to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It cannot: the backup holds a transaction end that is not wanted. For [`Target::Transaction`] this is not
    /// told; a transaction that ended before consistency is no target either.
    BeforeConsistency,
    /// As soon as consistency is reached: no transaction ended between the last one wanted and there.
    Consistency,
    /// After the record that begins here.
    At(Lsn),
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read the WAL, and give all transaction ends that begin in `[start, end)` to [`Search::supply`]. The last one
    /// may end after `end`.
    Read {
        /// The start of an interval.
        start: Lsn,
        /// Its end.
        end: Lsn,
    },
    /// Found.
    Found(Resolved),
    /// No such transaction ended within the bounds.
    NoSuchTransaction,
}

/// The question cannot be answered from this index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Part of the WAL is not in the index.
    #[error("the commit-time index does not cover the WAL from {from} to {to}")]
    NotCovered {
        /// The first byte not covered.
        from: Lsn,
        /// The first byte covered again, or the end of what was asked for.
        to: Lsn,
    },
    /// The index and the WAL contradict each other.
    #[error(
        "the commit-time index counts {expected} transaction ends from {start} to {end}, the WAL holds {found}; rebuild the index"
    )]
    Differs {
        /// The interval's start.
        start: Lsn,
        /// Its end.
        end: Lsn,
        /// Ends by the index.
        expected: u32,
        /// Ends that were supplied.
        found: u64,
    },
}

/// A search in progress.
#[derive(Clone, Debug)]
pub struct Search {
    target: Target,
    bounds: Bounds,
    supplied: BTreeMap<Lsn, Vec<TransactionEnd>>,
}

impl Search {
    /// Begins one.
    #[must_use]
    pub fn new(target: Target, bounds: Bounds) -> Self {
        Search {
            target,
            bounds,
            supplied: BTreeMap::new(),
        }
    }

    /// What was read for [`Step::Read`] with this start, in the WAL's order.
    pub fn supply(&mut self, start: Lsn, ends: Vec<TransactionEnd>) {
        let _ = self.supplied.insert(start, ends);
    }

    /// Looks through the index: segments in the WAL's order, without holes from `from` to `to`, the same at each step.
    pub fn step(&self, index: &[SegmentIndex]) -> Result<Step, ResolveError> {
        let Bounds { from, to } = self.bounds;
        let mut found = Resolved {
            last: None,
            last_commit: None,
            next: None,
        };
        let mut covered = from;
        for interval in index.iter().flat_map(|segment| &segment.intervals) {
            if interval.end <= from {
                continue;
            }
            if interval.start >= to {
                break;
            }
            if interval.start > covered {
                let to = interval.start;
                return Err(ResolveError::NotCovered { from: covered, to });
            }
            covered = interval.end;
            let Some(ends) = &interval.ends else { continue };
            if !self.must_read(interval, ends) {
                found.pass(
                    self.within(&ends.last).then_some(ends.last),
                    ends.last_commit.filter(|commit| commit.lsn >= from),
                );
                continue;
            }
            let Some(read) = self.ends_of(interval, ends)? else {
                return Ok(Step::Read {
                    start: interval.start,
                    end: interval.end,
                });
            };
            if let Some(step) = self.look_through(&read, &mut found) {
                return Ok(step);
            }
        }
        if covered < to {
            return Err(ResolveError::NotCovered { from: covered, to });
        }
        Ok(match self.target {
            Target::Transaction(_) => Step::NoSuchTransaction,
            _ => Step::Found(found),
        })
    }

    fn within(&self, end: &TransactionEnd) -> bool {
        end.lsn >= self.bounds.from && end.end <= self.bounds.to
    }

    /// Whether only the records of the interval can tell.
    fn must_read(&self, interval: &Interval, ends: &Ends) -> bool {
        // Its last end does not count: which one does, or whether any?
        let cut = ends.last.end > self.bounds.to && interval.start < self.bounds.to;
        cut || match self.target {
            Target::Time(target) => ends.max_time > target,
            Target::Transaction(xid) => (ends.min_xid..=ends.max_xid).contains(&xid),
            Target::Before(limit) => ends.last.lsn >= limit,
            Target::Through(limit) => ends.last.lsn > limit,
            Target::Latest => false,
        }
    }

    /// The interval's ends that are within the bounds, if they are known.
    fn ends_of(
        &self,
        interval: &Interval,
        ends: &Ends,
    ) -> Result<Option<Vec<TransactionEnd>>, ResolveError> {
        let all = match self.supplied.get(&interval.start) {
            Some(supplied) => supplied.as_slice(),
            None if ends.count == 1 => std::slice::from_ref(&ends.last),
            None => return Ok(None),
        };
        if all.len() != ends.count as usize || all.last() != Some(&ends.last) {
            return Err(ResolveError::Differs {
                start: interval.start,
                end: interval.end,
                expected: ends.count,
                found: all.len() as u64,
            });
        }
        let within = all.iter().filter(|end| self.within(end));
        Ok(Some(within.copied().collect()))
    }

    /// Goes on through ends one by one; tells when the target is among them.
    fn look_through(&self, ends: &[TransactionEnd], found: &mut Resolved) -> Option<Step> {
        for end in ends {
            let beyond = match self.target {
                Target::Time(target) => end.time > target,
                Target::Before(limit) => end.lsn >= limit,
                Target::Through(limit) => end.lsn > limit,
                Target::Transaction(_) | Target::Latest => false,
            };
            if beyond {
                found.next = Some(*end);
                return Some(Step::Found(*found));
            }
            found.pass(Some(*end), end.commit());
            if matches!(self.target, Target::Transaction(xid) if end.xid == xid) {
                return Some(Step::Found(*found));
            }
        }
        None
    }
}

impl Resolved {
    fn pass(&mut self, last: Option<TransactionEnd>, commit: Option<Commit>) {
        self.last = last.or(self.last);
        self.last_commit = commit.or(self.last_commit);
    }
}
