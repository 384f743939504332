//! `wal-index/relations/`: what the catalogs said, so that files in the WAL have names.
//!
//! One object is a full map and what changed since; it is written again with each change until the changes outgrow it,
//! and then another is begun. Names are no facts of the WAL: what is lost here cannot be built again, and costs names
//! only.

use futures::{StreamExt, TryStreamExt};
use pg_format::{Lsn, TimelineHistory, TimelineId};
use wal_index::{RelationHistory, RelationMap};

use super::{is_lost, pack, unpack};
use crate::frame::FrameKind;
use crate::{BranchReader, BranchWriter, RepositoryError, Result};

/// The changes in one object may have so many bytes, or as many as its full map.
const CHANGES_BYTES: usize = 1 << 20;
/// Objects that are read at the same time.
const OBJECTS_AT_ONCE: usize = 4;

impl BranchReader {
    /// What the catalogs said along `history`, for moments from `from` up to `to`: the last map before, all in between,
    /// and the first one after. What was taken on a timeline after the history left it is left out.
    ///
    /// # Errors
    /// The store failed. A damaged object is passed over.
    pub async fn relation_maps(
        &self,
        history: &TimelineHistory,
        from: Lsn,
        to: Lsn,
    ) -> Result<Vec<RelationHistory>> {
        let wanted = wanted(self.relation_map_keys().await?, history, from, to);
        let histories = futures::stream::iter(wanted).map(|(timeline, lsn)| async move {
            let stored = passed_over(self.relation_history(timeline, lsn).await)?;
            let left = history.switch_point(timeline);
            Ok::<_, RepositoryError>(stored.map(|mut stored| {
                stored
                    .changes
                    .retain(|changes| left.is_none_or(|left| changes.as_of < left));
                stored
            }))
        });
        let histories: Vec<_> = histories.buffered(OBJECTS_AT_ONCE).try_collect().await?;
        Ok(histories.into_iter().flatten().collect())
    }

    /// Timeline and position of each object, in order.
    async fn relation_map_keys(&self) -> Result<Vec<(TimelineId, Lsn)>> {
        let listed = self.store.list(&self.layout.relation_maps()).await?;
        let keys = listed.iter().filter_map(|(key, _)| parse(key));
        Ok(keys.collect())
    }

    async fn relation_history(&self, timeline: TimelineId, lsn: Lsn) -> Result<RelationHistory> {
        let key = self.layout.relation_map(timeline, lsn);
        let stored = self.store.get(&key).await?;
        unpack(FrameKind::RelationMap, key, stored, RelationHistory::decode).await
    }
}

impl BranchWriter {
    /// Stores what the catalogs say; `false` if they said so before, and nothing was to be stored.
    ///
    /// A map from before the last stored one is not stored. Of two who do this at the same time one may lose its map.
    ///
    /// # Errors
    /// The store failed.
    pub async fn put_relation_map(&self, timeline: TimelineId, map: &RelationMap) -> Result<bool> {
        let keys = self.relation_map_keys().await?;
        let last = keys
            .into_iter()
            .rfind(|(stored_on, _)| *stored_on == timeline);
        let stored = match last {
            Some((_, lsn)) => passed_over(self.relation_history(timeline, lsn).await)?,
            None => None,
        };
        if last.is_some_and(|(_, lsn)| map.as_of < lsn) {
            return Ok(false);
        }
        let Some(stored) = stored else {
            return self
                .put_relations(timeline, RelationHistory::new(map.clone()))
                .await;
        };
        let latest = stored.latest();
        let mut next = stored;
        if map.as_of < latest.as_of || !next.push(&latest, map) {
            return Ok(false);
        }
        let full = RelationHistory::new(next.full.clone()).encode().len();
        let changes = next.encode().len().saturating_sub(full);
        if changes > full.max(CHANGES_BYTES) && map.as_of > next.full.as_of {
            next = RelationHistory::new(map.clone());
        }
        self.put_relations(timeline, next).await
    }

    async fn put_relations(&self, timeline: TimelineId, history: RelationHistory) -> Result<bool> {
        let key = self.layout.relation_map(timeline, history.full.as_of);
        let frame = pack(FrameKind::RelationMap, &key, move || history.encode()).await?;
        self.store.put(&key, frame).await?;
        Ok(true)
    }
}

fn passed_over<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_lost(&error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "stored names of relations are passed over");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Those on the history that tell of positions from `from` up to `to`.
fn wanted(
    keys: Vec<(TimelineId, Lsn)>,
    history: &TimelineHistory,
    from: Lsn,
    to: Lsn,
) -> Vec<(TimelineId, Lsn)> {
    let on_path = |(timeline, lsn): &(TimelineId, Lsn)| {
        let left = history.switch_point(*timeline);
        history.contains(*timeline) && left.is_none_or(|left| *lsn < left)
    };
    let mut keys: Vec<_> = keys.into_iter().filter(on_path).collect();
    keys.sort_by_key(|(_, lsn)| *lsn);
    let first = keys
        .partition_point(|(_, lsn)| *lsn <= from)
        .saturating_sub(1);
    let last = keys.partition_point(|(_, lsn)| *lsn < to).saturating_add(1);
    keys.truncate(last);
    keys.split_off(first.min(keys.len()))
}

/// `.../<timeline>-<position>`
pub(crate) fn parse(key: &str) -> Option<(TimelineId, Lsn)> {
    let (timeline, lsn) = key.rsplit('/').next()?.split_once('-')?;
    let timeline = TimelineId::from_hex(timeline).ok()?;
    let lsn = (lsn.len() == 16)
        .then(|| u64::from_str_radix(lsn, 16).ok())
        .flatten()?;
    Some((timeline, Lsn(lsn)))
}

#[cfg(test)]
mod tests {
    use events::{BranchName, InstanceName};
    use pg_format::wal::RelationFile;
    use pg_format::{Lsn, TimelineHistory, TimelineId};
    use wal_index::{Database, Names, Relation, RelationKind, RelationMap};

    use crate::{BranchWriter, Repository, RetryPolicy};

    const ONE: TimelineId = TimelineId(1);

    fn branch() -> BranchWriter {
        let instance = InstanceName::new("orders").unwrap();
        let repository = Repository::open("memory://", RetryPolicy::default()).unwrap();
        repository.writer(&instance, &BranchName::main())
    }

    fn map(as_of: u64, names: &[&str]) -> RelationMap {
        let relation = |(oid, name): (u32, &&str)| Relation {
            database: 5,
            oid,
            schema: "public".to_owned(),
            name: (*name).to_owned(),
            kind: RelationKind::Table,
            file: RelationFile {
                tablespace: 1663,
                database: 5,
                number: oid,
            },
            table: None,
        };
        RelationMap {
            as_of: Lsn(as_of),
            databases: vec![Database {
                oid: 5,
                name: "shop".to_owned(),
                read: true,
            }],
            relations: (20_000..).zip(names).map(relation).collect(),
        }
    }

    async fn begun(branch: &BranchWriter) -> Vec<(u32, u64)> {
        let keys = branch.relation_map_keys().await.unwrap();
        keys.iter()
            .map(|(timeline, lsn)| (timeline.0, lsn.0))
            .collect()
    }

    #[tokio::test]
    async fn changes_are_noted_and_found() {
        let branch = branch();
        assert!(
            branch
                .put_relation_map(ONE, &map(100, &["a", "b"]))
                .await
                .unwrap()
        );
        assert!(
            !branch
                .put_relation_map(ONE, &map(150, &["a", "b"]))
                .await
                .unwrap()
        );
        assert!(
            branch
                .put_relation_map(ONE, &map(200, &["a", "c"]))
                .await
                .unwrap()
        );
        // Somebody else was faster.
        assert!(
            !branch
                .put_relation_map(ONE, &map(180, &["a"]))
                .await
                .unwrap()
        );
        assert_eq!(begun(&branch).await, [(1, 100)]);
        let root = TimelineHistory::root(ONE);
        let maps = branch
            .relation_maps(&root, Lsn(0), Lsn(1000))
            .await
            .unwrap();
        assert_eq!(maps[0].changes.len(), 1);
        let names = Names::new(maps);
        let name = |lsn: u64| names.relation_at(5, 20_001, Lsn(lsn)).unwrap().name.clone();
        assert_eq!((name(120), name(210)), ("b".to_owned(), "c".to_owned()));
        // Damage costs the names, and a new map is begun.
        let key = branch.layout.relation_map(ONE, Lsn(100));
        branch.store.put(&key, "garbage".into()).await.unwrap();
        assert!(
            branch
                .relation_maps(&root, Lsn(0), Lsn(1000))
                .await
                .unwrap()
                .is_empty()
        );
        assert!(
            branch
                .put_relation_map(ONE, &map(300, &["a", "c"]))
                .await
                .unwrap()
        );
        assert_eq!(begun(&branch).await, [(1, 100), (1, 300)]);
        assert_eq!(
            branch
                .relation_maps(&root, Lsn(0), Lsn(1000))
                .await
                .unwrap()
                .len(),
            1
        );
    }

    #[tokio::test]
    async fn an_object_does_not_grow_without_end() {
        let branch = branch();
        let long: Vec<String> = (0..9).map(|n| n.to_string().repeat(60_000)).collect();
        for (as_of, name) in (1..).zip(&long) {
            let map = map(as_of * 100, &[name.as_str()]);
            assert!(branch.put_relation_map(ONE, &map).await.unwrap());
        }
        assert_eq!(begun(&branch).await, [(1, 100)]);
        for (as_of, name) in (10..).zip(&long) {
            let _ = branch
                .put_relation_map(ONE, &map(as_of * 100, &[&name[1..], name]))
                .await
                .unwrap();
        }
        let begun = begun(&branch).await;
        assert_eq!(begun.len(), 2, "{begun:?}");
        assert_eq!(branch.relation_map_keys().await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn only_what_is_on_the_way() {
        let branch = branch();
        for (timeline, as_of, name) in [
            (1, 100, "a"),
            (1, 300, "late"),
            (2, 220, "b"),
            (2, 500, "c"),
        ] {
            let key = branch.layout.relation_map(TimelineId(timeline), Lsn(as_of));
            let stored = branch
                .put_relation_map(TimelineId(timeline), &map(as_of, &[name]))
                .await;
            assert!(stored.unwrap(), "{key}");
        }
        let history = TimelineHistory::parse(TimelineId(2), "1\t0/C8\tx\n").unwrap();
        let maps = branch
            .relation_maps(&history, Lsn(0), Lsn(1000))
            .await
            .unwrap();
        let told: Vec<_> = maps
            .iter()
            .map(|map| (map.full.as_of.0, map.changes.len()))
            .collect();
        // 300 on timeline 1 is after it was left.
        assert_eq!(told, [(100, 0), (220, 1)]);
        let some = |from: u64, to: u64| {
            let keys = vec![
                (ONE, Lsn(100)),
                (TimelineId(2), Lsn(220)),
                (TimelineId(2), Lsn(500)),
            ];
            let wanted = super::wanted(keys, &history, Lsn(from), Lsn(to));
            wanted.iter().map(|(_, lsn)| lsn.0).collect::<Vec<_>>()
        };
        assert_eq!(some(0, 50), [100]);
        assert_eq!(some(150, 200), [100, 220]);
        assert_eq!(some(230, 400), [220, 500]);
        assert_eq!(some(600, 700), [500]);
    }
}
