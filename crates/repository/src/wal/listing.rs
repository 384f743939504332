//! What the store says is archived of a branch.

use chrono::{DateTime, Utc};
use object_store::ObjectMeta;
use pg_format::{SegmentName, TimelineId, WalSegmentSize};

#[cfg(test)]
use crate::BranchWriter;
use crate::{BranchReader, Result};

/// What a WAL object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalObjectKind {
    /// A timeline history file.
    History,
    /// A complete segment.
    Segment(SegmentName),
    /// The beginning of a segment.
    Partial(SegmentName),
}

/// One object of a branch's WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalObject {
    /// The timeline.
    pub timeline: TimelineId,
    /// What it is.
    pub kind: WalObjectKind,
    /// Size in the repository.
    pub stored_bytes: u64,
    /// When it was written, by the store's clock.
    pub last_modified: DateTime<Utc>,
}

impl BranchReader {
    /// Everything archived of the branch, by timeline, then history file, segments, partials.
    ///
    /// `size` is the branch's segment size, from its record. Objects that are not WAL of this
    /// branch's kind are passed over.
    ///
    /// # Errors
    /// The store failed.
    pub async fn list_wal(&self, size: WalSegmentSize) -> Result<Vec<WalObject>> {
        let listed = self.store.list(&self.layout.wal()).await?;
        Ok(wal_objects(listed, size))
    }

    /// What was archived of the branch after one of its objects, in the order of the WAL: the object's
    /// timeline from there on, and the timelines that follow. Costs as many requests as that has pages.
    ///
    /// # Errors
    /// The store failed.
    pub async fn list_wal_after(
        &self,
        size: WalSegmentSize,
        timeline: TimelineId,
        kind: WalObjectKind,
    ) -> Result<Vec<WalObject>> {
        let key = self.layout.wal_object(timeline, kind);
        let listed = self.store.list_after(&self.layout.wal(), &key).await?;
        Ok(wal_objects(listed, size))
    }
}

fn wal_objects(listed: Vec<(String, ObjectMeta)>, size: WalSegmentSize) -> Vec<WalObject> {
    let object = |(key, meta): (String, ObjectMeta)| {
        let (timeline, kind) = parse(&key, size)?;
        Some(WalObject {
            timeline,
            kind,
            stored_bytes: meta.size,
            last_modified: meta.last_modified,
        })
    };
    let mut objects: Vec<WalObject> = listed.into_iter().filter_map(object).collect();
    objects.sort_by_key(|object| (object.timeline, object.kind));
    objects
}

#[cfg(test)]
impl BranchWriter {
    /// Deletes one WAL object. Succeeds when there is none.
    pub(crate) async fn delete_wal(&self, object: &WalObject) -> Result<()> {
        let key = self.layout.wal_object(object.timeline, object.kind);
        self.store.delete(&key).await
    }
}

/// `.../<timeline>/<file>`; the file must belong to the timeline it rests under.
pub(crate) fn parse(key: &str, size: WalSegmentSize) -> Option<(TimelineId, WalObjectKind)> {
    let (directory, file) = key.rsplit_once('/')?;
    let timeline = TimelineId::from_hex(directory.rsplit('/').next()?).ok()?;
    let segment = |name| {
        SegmentName::parse(name, size)
            .ok()
            .filter(|s| s.timeline == timeline)
    };
    let kind = if let Some(name) = file.strip_suffix(".partial") {
        WalObjectKind::Partial(segment(name)?)
    } else if file == timeline.history_file_name() {
        WalObjectKind::History
    } else {
        WalObjectKind::Segment(segment(file)?)
    };
    Some((timeline, kind))
}

#[cfg(test)]
mod tests {
    use pg_format::WalSegmentSize;

    use super::{WalObjectKind, parse};

    #[test]
    fn keys_of_wal_objects() {
        let kind = |file: &str| {
            parse(&format!("v1/i/b/wal/{file}"), WalSegmentSize::DEFAULT).map(|(_, kind)| kind)
        };
        let segment = kind("00000002/000000020000000000000003");
        assert!(matches!(segment, Some(WalObjectKind::Segment(_))));
        let partial = kind("00000002/000000020000000000000003.partial");
        assert!(matches!(partial, Some(WalObjectKind::Partial(_))));
        assert_eq!(
            kind("00000002/00000002.history"),
            Some(WalObjectKind::History)
        );
        for other in [
            "position",
            "00000002/000000010000000000000003",
            "00000002/00000003.history",
            "00000002/000000020000000000000100",
            "00000002/000000020000000000000003.partial.partial",
        ] {
            assert_eq!(kind(other), None, "{other}");
        }
    }
}
