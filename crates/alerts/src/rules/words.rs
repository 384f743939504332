//! Words for people.

use chrono::TimeDelta;
use events::event::FailureCause;

/// The likely cause, after "because of".
pub(super) fn because(cause: FailureCause) -> &'static str {
    match cause {
        FailureCause::Storage => "the object store",
        FailureCause::Connection => "the connection to PostgreSQL",
        FailureCause::Wal => "WAL that is missing or archived too late",
        FailureCause::Source => "PostgreSQL itself",
        FailureCause::Compute => "the compute it runs on",
        FailureCause::Cancelled => "somebody who did not want it any more",
        FailureCause::Internal => "a defect of Zektor, or a worker that went away",
    }
}

/// What can be done, when the failure itself says nothing.
pub(super) fn hint_for(cause: FailureCause, hint: &str) -> String {
    if !hint.trim().is_empty() {
        return hint.to_owned();
    }
    match cause {
        FailureCause::Storage => {
            "Check that the object store can be reached and that its credentials are valid."
        }
        FailureCause::Connection => "Check that PostgreSQL runs and lets the backup user in.",
        FailureCause::Wal => "Check the archive with `zektor wal status`.",
        FailureCause::Source => "Look into the log of PostgreSQL.",
        FailureCause::Compute => "Check disk and memory of the machine.",
        FailureCause::Cancelled => "Ask for it again if it is wanted after all.",
        FailureCause::Internal => "Look into the logs of the services.",
    }
    .to_owned()
}

/// `30 h`, `3 days`, `12 min`.
pub(super) fn span(time: TimeDelta) -> String {
    let minutes = time.num_minutes().max(0);
    match minutes {
        0 => format!("{} s", time.num_seconds().max(0)),
        1..120 => format!("{minutes} min"),
        120..4320 => format!("{} h", minutes / 60),
        _ => format!("{} days", minutes / 1440),
    }
}

/// `3.2 GiB`.
pub(super) fn size(bytes: u64) -> String {
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].into_iter();
    let mut tenths = u128::from(bytes) * 10;
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        if tenths < 10_240 {
            break;
        }
        (tenths, unit) = (tenths / 1024, larger);
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// A sentence inside another one.
pub(super) fn inside(message: &str) -> &str {
    message.trim().trim_end_matches('.')
}
