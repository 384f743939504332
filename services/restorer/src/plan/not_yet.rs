//! Times that cannot be asked for yet: too young, to come, or not archived. Pure.
//!
//! What must stay true: a time that is named instead can be asked for; one that cannot be yet is named with the moment
//! from which on it can.

use std::time::Duration;

use events::Timestamp;
use events::envelope::rfc3339;
use events::event::RefusalCode;

use super::target::Nearest;
use super::{Policy, Refusal};

/// Why a time cannot be asked for yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Future,
    Young,
    NotArchived,
}

impl Reason {
    /// Nothing later than `bound` can be restored.
    pub(super) fn of(
        at: Timestamp,
        now: Timestamp,
        bound: Timestamp,
        policy: Policy,
    ) -> Option<Self> {
        if at > now {
            Some(Reason::Future)
        } else if now - at < delta(policy.min_target_age) {
            Some(Reason::Young)
        } else {
            (at > bound).then_some(Reason::NotArchived)
        }
    }

    fn text(self, policy: Policy) -> String {
        match self {
            Reason::Future => "is in the future".to_owned(),
            Reason::Young => {
                format!(
                    "is less than {} seconds ago",
                    policy.min_target_age.as_secs()
                )
            }
            Reason::NotArchived => "is not archived yet".to_owned(),
        }
    }
}

/// Names what can be asked for instead.
pub(super) fn refusal(at: Timestamp, reason: Reason, nearest: Nearest, policy: Policy) -> Refusal {
    let age = policy.min_target_age;
    match nearest {
        Nearest::Before { latest, next } => {
            let mut refusal = match reason {
                Reason::Future => Refusal::in_the_future(at, latest),
                Reason::Young => Refusal::too_young(at, latest, age),
                Reason::NotArchived => Refusal::not_archived_yet(at, latest),
            };
            if let Some(next) = next {
                refusal.hint.push_str(&format!(
                    "; after it wal is missing up to {}, which can be asked for from {} on",
                    rfc3339(next),
                    rfc3339(next + delta(age))
                ));
            }
            refusal
        }
        Nearest::After(first) => {
            let message = format!(
                "{} {}, and no time can be restored yet: the first is {}, and can be asked for from {} on",
                rfc3339(at),
                reason.text(policy),
                rfc3339(first),
                rfc3339(first + delta(age))
            );
            let hint = "wait until then; --latest, --backup and --lsn work now";
            Refusal::new(RefusalCode::OutsideWindow, message, hint)
        }
    }
}

fn delta(age: Duration) -> chrono::TimeDelta {
    chrono::TimeDelta::from_std(age).unwrap_or_default()
}
