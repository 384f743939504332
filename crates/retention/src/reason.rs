//! Why something stays, or does not go yet.

use std::fmt;

use events::{BackupId, Timestamp};
use pg_format::TimelineId;

/// Why something stays, or does not go yet. As text one sentence, lower-case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The backup's own retention goes on.
    RetentionNotOver {
        /// Until then.
        until: Timestamp,
    },
    /// The backup is kept until somebody deletes it.
    NoRetention,
    /// Somebody holds the backup.
    Held {
        /// In their words.
        reason: Option<String>,
        /// Since when.
        since: Timestamp,
    },
    /// A live branch always has a backup that can be restored: this is the newest.
    NewestRestorable,
    /// The newest backup from which the timeline can be reached that is archived now; newer ones are on a timeline
    /// that was left before they ended.
    NewestThatLeadsHere {
        /// The timeline that is archived now.
        timeline: TimelineId,
    },
    /// A damaged backup promises moments, and this is the nearest sound one from which they can be restored.
    StandsIn {
        /// The damaged one; that which promises longest, where there are several.
        damaged: BackupId,
        /// Until when, the time of grace included; absent when that is not known.
        until: Option<Timestamp>,
    },
    /// The branch is live, and has no backup that can be restored: nothing is taken away until there is one.
    NothingRestorable,
    /// Other backups that stay name its packs.
    NamedByOthers {
        /// Some of them.
        backups: Vec<BackupId>,
        /// How many there are.
        count: usize,
    },
    /// The branch is being read.
    Reading {
        /// By what.
        what: String,
    },
    /// A backup is being taken, and where its WAL begins is not known yet.
    BackupRunning {
        /// Which.
        backup_id: BackupId,
    },
    /// A backup is being taken that may name packs of one that has no manifest any more.
    MayBeNamed {
        /// Which.
        by: BackupId,
    },
    /// WAL that leads to where the archive is now, and no backup does yet.
    NoBackupLeadsHere {
        /// The timeline that is archived now.
        timeline: TimelineId,
    },
    /// WAL of a timeline that is newer than the one that is archived: it may be the next.
    NewerThanArchived {
        /// The timeline that is archived now.
        timeline: TimelineId,
    },
}

impl Reason {
    /// When it is one no longer, if that is known.
    pub(crate) fn ends_at(&self) -> Option<Timestamp> {
        match self {
            Reason::RetentionNotOver { until } => Some(*until),
            Reason::StandsIn { until, .. } => *until,
            _ => None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |time: &Timestamp| events::envelope::rfc3339(*time);
        match self {
            Reason::RetentionNotOver { until } => {
                write!(f, "its retention ends at {}", time(until))
            }
            Reason::NoRetention => write!(f, "it is kept until somebody deletes it"),
            Reason::Held { reason, since } => {
                write!(f, "it is held since {}", time(since))?;
                reason.iter().try_for_each(|text| write!(f, ": {text}"))
            }
            Reason::NewestRestorable => write!(
                f,
                "it is the newest backup of the branch that can be restored; it goes once a newer one is complete"
            ),
            Reason::NewestThatLeadsHere { timeline } => write!(
                f,
                "it is the newest backup that leads to timeline {timeline}, which is archived now; it goes once \
                 a newer one is complete"
            ),
            Reason::StandsIn { damaged, until } => {
                write!(
                    f,
                    "backup {damaged} was found damaged, and this is the sound one before it: for the moments that are \
                     promised it stays, with all wal from its start on, "
                )?;
                match until {
                    Some(until) => write!(f, "until {}", time(until)),
                    None => write!(f, "as long as the damaged one"),
                }
            }
            Reason::NothingRestorable => write!(
                f,
                "the branch has no backup that can be restored; nothing goes until one is complete"
            ),
            Reason::NamedByOthers { backups, count } => {
                write!(
                    f,
                    "its packs are named by other backups that stay, {count} of them"
                )?;
                let one = backups.first();
                one.map_or(Ok(()), |one| write!(f, ", such as {one}"))
            }
            Reason::Reading { what } => write!(f, "nothing goes while {what} reads the branch"),
            Reason::BackupRunning { backup_id } => write!(
                f,
                "no wal goes while backup {backup_id} is being taken and has not said where it begins"
            ),
            Reason::MayBeNamed { by } => {
                write!(f, "backup {by} is being taken and may name its packs")
            }
            Reason::NoBackupLeadsHere { timeline } => write!(
                f,
                "it leads to timeline {timeline}, which is archived now, and no backup does yet"
            ),
            Reason::NewerThanArchived { timeline } => write!(
                f,
                "its timeline is newer than {timeline}, which is archived now"
            ),
        }
    }
}
