//! What must be replayed to come out just before each moment, where the index alone does not tell: the records are
//! read, a few stretches at a time.

use std::collections::BTreeSet;

use futures::{StreamExt as _, TryStreamExt as _};
use repository::{BranchReader, ErrorClass, IndexSlice, WalPath};
use wal_index::{Moment, MomentKind, Target, WalEvent};

use crate::error::RestoreError;
use crate::plan::{KnownWal, Missing, Place, Stretch, WaysBack};
use crate::restorer::Restorer;

/// Stretches that are read at the same time.
const READ_AT_ONCE: usize = 8;

/// What is just before a moment.
pub(super) struct Before {
    /// The last record that must be replayed.
    pub(super) last: Option<Place>,
    /// The moment's transaction is prepared there.
    pub(super) prepared: bool,
}

impl Restorer {
    /// Whether transactions may have been prepared in this WAL. On most servers they cannot be, and then the records
    /// around each moment need not be read.
    pub(super) async fn prepares(
        &self,
        ways: &WaysBack<'_>,
        index: &IndexSlice,
    ) -> Result<bool, RestoreError> {
        let mut events = index.segments.iter().flat_map(|segment| &segment.events);
        let allowed = |event: &WalEvent| match event {
            WalEvent::ParameterChange { parameters, .. } => {
                parameters.settings.max_prepared_transactions > 0
            }
            _ => false,
        };
        // The setting may have changed where the index has a hole.
        if !index.missing.is_empty() || events.any(allowed) {
            return Ok(true);
        }
        let Some(first) = ways.first() else {
            return Ok(false);
        };
        match self.memory.sources.of(&self.repository, first).await {
            Ok(source) => {
                let settings = source.settings.as_ref();
                Ok(settings.is_none_or(|settings| settings.max_prepared_transactions > 0))
            }
            Err(error) if matches!(error.class(), ErrorClass::Corrupt | ErrorClass::Absent) => {
                Ok(true)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What is just before each of the moments.
    pub(super) async fn before_each(
        &self,
        reader: &BranchReader,
        path: &WalPath,
        known: &mut KnownWal,
        moments: &[&Moment],
        (ways, prepares): (&WaysBack<'_>, bool),
    ) -> Result<Vec<Before>, RestoreError> {
        let mut asked = BTreeSet::new();
        loop {
            let mut found = Vec::with_capacity(moments.len());
            let mut wanted = BTreeSet::new();
            for moment in moments {
                match before(known, moment, ways, prepares) {
                    Ok(before) => found.push(before),
                    Err(Missing::Records { range, at }) => {
                        let _ = wanted.insert((range.start, range.end, at));
                    }
                    Err(Missing::Contradicted(source)) => return Err(RestoreError::Index(source)),
                    Err(Missing::Index(_)) => return Err(RestoreError::Undecided),
                }
            }
            if wanted.is_empty() {
                return Ok(found);
            }
            // What was read once and is missing again would be missing for ever.
            if wanted.is_subset(&asked) {
                return Err(RestoreError::Undecided);
            }
            asked.extend(wanted.iter().copied());
            let stretches = futures::stream::iter(wanted)
                .map(|(start, end, at)| read(reader, path, Stretch::new(start..end, at)))
                .buffered(READ_AT_ONCE);
            let stretches: Vec<Stretch> = stretches.try_collect().await?;
            for stretch in stretches {
                known.add_stretch(stretch);
            }
        }
    }
}

/// Fills a stretch, as far as its WAL can be read: what cannot be read cannot be restored either.
async fn read(
    reader: &BranchReader,
    path: &WalPath,
    mut stretch: Stretch,
) -> Result<Stretch, RestoreError> {
    let range = stretch.range();
    let observe = |record: &pg_format::wal::WalRecord<'_>| stretch.observe(record);
    match reader
        .records_between(path, range.start, range.end, observe)
        .await
    {
        Ok(_) => Ok(stretch),
        Err(error) if matches!(error.class(), ErrorClass::Corrupt | ErrorClass::Absent) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "wal before a moment cannot be read");
            Ok(stretch)
        }
        Err(error) => Err(error.into()),
    }
}

fn before(
    known: &KnownWal,
    moment: &Moment,
    ways: &WaysBack<'_>,
    prepares: bool,
) -> Result<Before, Missing> {
    let last = match moment.restore {
        Some(before) => Some(before.last),
        None => {
            let range = known.indexed_from(moment.before)..moment.before;
            known.resolve(Target::Latest, &range)?.last
        }
    };
    let last = last.map(|last| Place {
        start: last.lsn,
        end: last.end,
    });
    let first = ways.first().filter(|_| prepares);
    let Some(first) = first.filter(|first| first.stop_lsn <= moment.before) else {
        let prepared = false;
        return Ok(Before { last, prepared });
    };
    // What was prepared before the first backup's end is in it.
    let from = last.map_or(first.stop_lsn, |last| last.end.max(first.stop_lsn));
    let outlives = known.outlives(from, moment.before)?;
    let prepared = moment.kind != MomentKind::RestorePoint && known.ends_prepared(moment.lsn)?;
    Ok(Before {
        last: outlives.or(last),
        prepared,
    })
}
