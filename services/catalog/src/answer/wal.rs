//! The answer about a branch's WAL.

use events::query::{BranchShow, SlotRisk, WalGap, WalSummary, WalView};
use events::{BranchName, InstanceName};

use super::view::slot_risk;
use super::{Answer, failed};
use crate::projector::Projector;
use crate::store::StoreError;
use crate::store::rows::{WalFileRow, WalPruneRow};

/// What was let go of a branch's WAL on purpose: it is missing, and nobody misses it.
struct Pruned {
    stretches: Vec<WalPruneRow>,
    /// The first segment that is left.
    first: Option<WalFileRow>,
}

impl Pruned {
    /// The parts of these that were not let go.
    fn left_of(&self, gaps: Vec<WalGap>) -> Vec<WalGap> {
        if self.stretches.is_empty() {
            return gaps;
        }
        let mut left = gaps;
        for stretch in &self.stretches {
            left = left
                .into_iter()
                .flat_map(|gap| without(gap, stretch))
                .collect();
        }
        // What lay before the beginning of all that is left went with it.
        let first = self
            .first
            .as_ref()
            .map(|first| (first.timeline, first.start_lsn));
        left.retain(|gap| first.is_some_and(|first| (gap.timeline, gap.to_lsn) > first));
        left
    }
}

/// The parts of a gap before and after a stretch.
fn without(gap: WalGap, stretch: &WalPruneRow) -> Vec<WalGap> {
    let apart = stretch.timeline != gap.timeline
        || stretch.to_lsn <= gap.from_lsn
        || gap.to_lsn <= stretch.from_lsn;
    if apart {
        return vec![gap];
    }
    let mut parts = Vec::new();
    if gap.from_lsn < stretch.from_lsn {
        parts.push(WalGap {
            to_lsn: stretch.from_lsn,
            ..gap.clone()
        });
    }
    if stretch.to_lsn < gap.to_lsn {
        parts.push(WalGap {
            from_lsn: stretch.to_lsn,
            ..gap
        });
    }
    parts
}

impl Projector {
    pub(super) async fn wal_summary(&self, question: WalSummary) -> Answer<WalSummary> {
        let WalSummary { instance, branch } = question;
        let store = self.store();
        let totals = store.wal_totals(&instance, &branch).await.map_err(failed)?;
        let ends = store.wal_ends(&instance, &branch).await.map_err(failed)?;
        if ends.is_none() {
            let _ = self
                .branch_show(BranchShow {
                    instance: instance.clone(),
                    branch: branch.clone(),
                })
                .await?;
        }
        let (first, last) = ends.unzip();
        let slot_risk = self.slot_risk(&instance, &branch).await;
        Ok(WalView {
            timeline: last.as_ref().map(|last| last.timeline),
            first_segment: first.map(|first| first.segment),
            archived_lsn: last.as_ref().map(|last| last.end_lsn),
            archived_at: last.as_ref().map(|last| last.archived_at),
            last_segment: last.map(|last| last.segment),
            stored_bytes: totals.stored_bytes,
            segments: totals.segments,
            gaps: self.gaps(&instance, &branch).await.map_err(failed)?,
            slot_risk: slot_risk.map_err(failed)?,
            instance,
            branch,
        })
    }

    /// Of the branch that there is now; what was said of one of the same name before means nothing.
    async fn slot_risk(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<Option<SlotRisk>, StoreError> {
        let found = self.store().branches(instance, Some(branch)).await?;
        let Some(since) = found.first().map(|row| row.created_at) else {
            return Ok(None);
        };
        let row = self.store().slot_risk(instance, branch, since).await?;
        Ok(row.map(slot_risk))
    }

    /// Announced gaps, and holes between segments that no announced gap overlaps.
    async fn gaps(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<Vec<WalGap>, StoreError> {
        let announced = self.store().wal_gaps(instance, branch).await?;
        let mut gaps: Vec<WalGap> = announced
            .into_iter()
            .map(|gap| WalGap {
                timeline: gap.timeline,
                from_lsn: gap.from_lsn,
                to_lsn: gap.to_lsn,
                cause: Some(gap.cause),
                detected_at: Some(gap.detected_at),
            })
            .collect();
        for hole in self.store().wal_holes(instance, branch).await? {
            let overlaps = |gap: &WalGap| {
                gap.timeline == hole.timeline
                    && gap.from_lsn < hole.to_lsn
                    && hole.from_lsn < gap.to_lsn
            };
            if !gaps.iter().any(overlaps) {
                gaps.push(WalGap {
                    timeline: hole.timeline,
                    from_lsn: hole.from_lsn,
                    to_lsn: hole.to_lsn,
                    cause: None,
                    detected_at: None,
                });
            }
        }
        let pruned = Pruned {
            stretches: self.store().wal_prunes(instance, branch).await?,
            first: self
                .store()
                .wal_ends(instance, branch)
                .await?
                .map(|ends| ends.0),
        };
        let mut gaps = pruned.left_of(gaps);
        gaps.sort_by_key(|gap| (gap.timeline, gap.from_lsn));
        Ok(gaps)
    }
}

#[cfg(test)]
mod tests {
    use events::query::WalGap;
    use events::{BranchName, InstanceName, Timestamp};
    use pg_format::{Lsn, TimelineId};

    use super::{Pruned, without};
    use crate::store::rows::WalPruneRow;

    fn gap((from, to): (u64, u64)) -> WalGap {
        WalGap {
            timeline: TimelineId(1),
            from_lsn: Lsn(from),
            to_lsn: Lsn(to),
            cause: None,
            detected_at: None,
        }
    }

    fn stretch((from, to): (u64, u64)) -> WalPruneRow {
        WalPruneRow {
            instance: InstanceName::new("orders").unwrap(),
            branch: BranchName::main(),
            timeline: TimelineId(1),
            from_lsn: Lsn(from),
            to_lsn: Lsn(to),
            pruned_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn check(of: (u64, u64), pruned: (u64, u64), left: &[(u64, u64)]) {
        let expected: Vec<WalGap> = left.iter().copied().map(gap).collect();
        assert_eq!(without(gap(of), &stretch(pruned)), expected);
    }

    #[test]
    fn what_was_let_go_is_no_gap() {
        check((3, 6), (0, 9), &[]);
        check((3, 6), (3, 6), &[]);
        check((3, 6), (0, 3), &[(3, 6)]);
        check((3, 6), (4, 5), &[(3, 4), (5, 6)]);
        check((3, 6), (5, 9), &[(3, 5)]);
        let all = Pruned {
            stretches: vec![stretch((0, 2))],
            first: None,
        };
        assert_eq!(all.left_of(vec![gap((3, 6))]), []);
    }
}
