//! Answers "when exactly was it dropped?": the commit-time index joined with the names of relations, and for each
//! moment the way back to just before it.

mod before;

use events::moments::{
    Bucket, Moment, MomentKind, MomentObject, Moments, MomentsAnswer, MomentsQuestion,
};
use repository::archive::Archive;
use repository::{BranchReader, IndexSlice, WalPath};
use wal_index::{Names, RelationKind, SegmentIndex, buckets, moments};

use crate::error::RestoreError;
use crate::freshness;
use crate::index::Cut;
use crate::plan::{KnownWal, STILL_PREPARED, WaysBack, pg_time, timestamp};
use crate::restorer::Restorer;

/// More are not shown when nobody says how many.
const MOST_MOMENTS: usize = 200;
/// Of so many stretches that could not be looked at is told.
const MOST_UNREAD: usize = 20;

impl Restorer {
    /// Answers what happened on a branch.
    pub async fn answer_moments(&self, question: MomentsQuestion) -> MomentsAnswer {
        match self.moments(&question).await {
            Ok(moments) => MomentsAnswer::Found(moments),
            Err(RestoreError::Refused(refusal)) => MomentsAnswer::Unknown {
                message: refusal.message,
                hint: refusal.hint,
            },
            Err(error) => {
                let text = service::run::chain(&error);
                tracing::warn!(error = text, "moments cannot be told");
                MomentsAnswer::Unknown {
                    message: text,
                    hint: "check the object store, and try again".to_owned(),
                }
            }
        }
    }

    /// What happened on a branch, of what is archived of it.
    ///
    /// # Errors
    /// Nothing is archived, or the repository failed.
    pub async fn moments(&self, question: &MomentsQuestion) -> Result<Moments, RestoreError> {
        let MomentsQuestion {
            instance, branch, ..
        } = question;
        let reader = self.repository.reader(instance, branch);
        freshness::ask_archiver(&self.bus, instance, branch).await;
        let archive = self.kept(instance, branch).await?.preferring_sound();
        self.moments_of(&reader, &archive, question).await
    }

    /// The same, of an archive that was read already.
    ///
    /// # Errors
    /// As [`Self::moments`].
    pub async fn moments_of(
        &self,
        reader: &BranchReader,
        archive: &Archive,
        question: &MomentsQuestion,
    ) -> Result<Moments, RestoreError> {
        let ways = WaysBack::new(archive, self.clock.now(), self.policy)?;
        let (Some(position), Some(cut)) = (&archive.position, archive.backups.first().map(Cut::of))
        else {
            return Ok(Moments::default());
        };
        let Some(path) = WalPath::to(archive, position.timeline) else {
            return Ok(Moments::default());
        };
        let stretches = path.stretches();
        let Some(first) = stretches.first().map(|first| first.start) else {
            return Ok(Moments::default());
        };
        let all = first..position.lsn;
        let (index, maps) = tokio::try_join!(
            self.memory.index.read(reader, &path, cut, all.clone()),
            reader.relation_maps(path.history(), all.start, all.end),
        )?;
        let names = Names::new(maps);
        let mut told = tell(&index, &names, question);
        let prepares = self.prepares(&ways, &index).await?;
        let mut known = KnownWal::default();
        known.add_index(all, index.segments);
        let wanted: Vec<&wal_index::Moment> = told.found.iter().map(|(found, _)| found).collect();
        let befores = self
            .before_each(reader, &path, &mut known, &wanted, (&ways, prepares))
            .await?;
        for ((found, moment), before) in told.found.iter_mut().zip(befores) {
            let way = ways.to(found.before, before.last, found.restore);
            moment.restore_lsn = way.lsn;
            moment.restore_to = match way.time {
                Some(time) => events::envelope::rfc3339(time),
                None => way.lsn.to_string(),
            };
            let held = before
                .prepared
                .then(|| format!("the transaction was prepared before: {STILL_PREPARED}"));
            let detail = moment.detail.take().into_iter().chain(held);
            let detail = detail
                .chain(way.refused)
                .collect::<Vec<String>>()
                .join("; ");
            moment.detail = (!detail.is_empty()).then_some(detail);
        }
        told.moments.moments = told.found.into_iter().map(|(_, moment)| moment).collect();
        Ok(told.moments)
    }
}

/// What the index tells, before the ways back are known.
struct Told {
    moments: Moments,
    found: Vec<(wal_index::Moment, Moment)>,
}

fn tell(index: &IndexSlice, names: &Names, question: &MomentsQuestion) -> Told {
    let (from, to) = (question.from.map(pg_time), question.to.map(pg_time));
    let mut found = moments(&index.segments, names);
    found.retain(|moment| {
        from.is_none_or(|from| moment.time >= from)
            && to.is_none_or(|to| moment.time <= to)
            && (!question.only_drops || moment.took_data())
    });
    let limit = question.limit.map_or(MOST_MOMENTS, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    });
    let left_out = found.len().saturating_sub(limit);
    let found: Vec<wal_index::Moment> = found.into_iter().skip(left_out).collect();
    let intervals = index.segments.iter().flat_map(|one| &one.intervals);
    let counted = buckets(intervals, from, to);
    let buckets = counted.buckets.iter().map(|bucket| Bucket {
        at: timestamp(bucket.start),
        commits: bucket.commits,
    });
    Told {
        moments: Moments {
            moments: Vec::new(),
            buckets: buckets.collect(),
            bucket_seconds: counted.width_seconds,
            truncated: left_out > 0,
            unread: unread(index),
        },
        found: found
            .into_iter()
            .map(|moment| (moment.clone(), event(moment)))
            .collect(),
    }
}

/// In the form of events; without the way back.
fn event(moment: wal_index::Moment) -> Moment {
    Moment {
        at: timestamp(moment.time),
        lsn: moment.lsn,
        xid: moment.xid,
        kind: kind(moment.kind),
        relation: moment.relation,
        database: moment.database_name,
        object: moment.object.map(object),
        rows: moment.rows,
        restore_to: String::new(),
        restore_lsn: moment.before,
        detail: moment.detail,
    }
}

fn kind(kind: wal_index::MomentKind) -> MomentKind {
    match kind {
        wal_index::MomentKind::Drop => MomentKind::Drop,
        wal_index::MomentKind::Truncate => MomentKind::Truncate,
        wal_index::MomentKind::Rewrite => MomentKind::Rewrite,
        wal_index::MomentKind::DropDatabase => MomentKind::DropDatabase,
        wal_index::MomentKind::Delete => MomentKind::Delete,
        wal_index::MomentKind::Update => MomentKind::Update,
        wal_index::MomentKind::RestorePoint => MomentKind::RestorePoint,
    }
}

fn object(kind: RelationKind) -> MomentObject {
    match kind {
        RelationKind::Table => MomentObject::Table,
        RelationKind::MaterializedView => MomentObject::MaterializedView,
        RelationKind::Index => MomentObject::Index,
        RelationKind::Sequence => MomentObject::Sequence,
        RelationKind::Toast | RelationKind::Other => MomentObject::Unknown,
    }
}

/// The WAL that could not be looked at, in words.
fn unread(index: &IndexSlice) -> Vec<String> {
    let missing = index.missing.iter();
    let mut unread: Vec<String> = missing
        .map(|range| {
            format!(
                "wal from {} to {} is not archived or damaged",
                range.start, range.end
            )
        })
        .collect();
    let not_understood = |one: &&SegmentIndex| one.undecoded > 0;
    let damaged = index.segments.iter().filter(not_understood);
    unread.extend(damaged.map(|one| {
        format!(
            "{} records from {} to {} are not understood",
            one.undecoded, one.start, one.end
        )
    }));
    let more = unread.len().saturating_sub(MOST_UNREAD);
    unread.truncate(MOST_UNREAD);
    if more > 0 {
        unread.push(format!("and {more} more stretches"));
    }
    unread
}
