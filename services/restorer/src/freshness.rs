//! Before a plan: lets the archive catch up with a target of seconds ago.
//!
//! The stored position trails the server by the flush interval. For a target that lies between the two, the
//! archiver is asked to prove itself complete now; the plan is then made from what is stored, whatever came
//! of the ask. An archiver that is down costs nothing: nobody answers, and the plan says what is missing.

use bus::Bus;
use events::{BranchName, InstanceName, RestoreTarget, Timestamp};
use repository::WalPosition;

/// Whether the archiver could bring the target into the archive by hurrying.
pub(crate) fn would_help(
    target: &RestoreTarget,
    position: Option<&WalPosition>,
    now: Timestamp,
) -> bool {
    match target {
        RestoreTarget::Backup { .. } => false,
        RestoreTarget::Latest
        | RestoreTarget::RestorePoint { .. }
        | RestoreTarget::Transaction { .. } => true,
        RestoreTarget::Lsn { lsn } => position.is_none_or(|position| position.lsn < *lsn),
        RestoreTarget::Time { at } => {
            *at <= now && position.is_none_or(|position| position.proven_at < *at)
        }
    }
}

/// Has the branch's archiver prove the archive complete up to now, if one is there.
pub(crate) async fn ask_archiver(bus: &Bus, instance: &InstanceName, branch: &BranchName) {
    if let Err(error) = bus.prove_archived(instance, branch).await {
        tracing::info!(%instance, %branch, %error, "planning with the archive as it is stored");
    }
}

#[cfg(test)]
mod tests {
    use events::RestoreTarget;
    use pg_format::{Lsn, TimelineId};
    use repository::WalPosition;

    use super::would_help;
    use events::example::at;

    #[test]
    fn only_what_is_past_and_not_covered_is_worth_an_ask() {
        let position = WalPosition {
            timeline: TimelineId(1),
            lsn: Lsn(500),
            proven_at: at(100),
            first_segment: String::new(),
            updated: at(100),
        };
        let time = |seconds| RestoreTarget::Time { at: at(seconds) };
        let check = |target, expected| {
            assert_eq!(would_help(&target, Some(&position), at(110)), expected);
        };
        check(time(100), false);
        check(time(105), true);
        check(time(111), false);
        check(RestoreTarget::Lsn { lsn: Lsn(500) }, false);
        check(RestoreTarget::Lsn { lsn: Lsn(501) }, true);
        check(RestoreTarget::Latest, true);
        assert!(would_help(&time(1), None, at(110)));
    }
}
