//! Decides what of a branch is kept, why, until when and what it costs, and what goes (`docs/decisions/0014`).
//!
//! [`Stored`] is everything that the repository has of one branch; [`plan`] says what becomes of each backup and each
//! stretch of WAL now; [`project`] is the same branch at a later moment, if no backup is added. Pure: time is part of
//! what is given, and the same input gives the same plan. Who explains and who deletes use the same plan.
//!
//! What must stay true:
//!
//! - A moment that a kept backup still promises ([`Backup::wal_until`]) stays restorable: the backup, and every byte of
//!   WAL from its start on, on every timeline that can be reached from its end.
//! - Where that backup was found damaged, the nearest older sound one stays in its place, with all WAL from there on.
//! - A kept backup can be restored: the WAL from its start to its stop stays, however old it is.
//! - The newest backup of a live branch that can be restored stays, and all WAL after it, whatever anybody wants; so
//!   does the newest from which the timeline that is archived now can be reached. While there is none, nothing goes.
//! - Nothing is deleted that was not marked for the whole time of grace, and a mark takes nothing away: what can be
//!   undone brings everything back.
//! - What nobody needs goes, unless something that is going on may need it; then the plan says what.

mod judge;
mod keep;
mod leftover;
mod name;
mod needs;
mod plan;
mod project;
mod reason;
mod segments;
mod stored;
mod tree;

pub use keep::{compare_retentions, default_wal_keep};
pub use leftover::{LEFTOVER_AGE, LeftoverFate, LeftoverVerdict};
pub use name::{Left, Taken};
pub use needs::{Need, Needs, Purpose};
pub use plan::{
    Class, Decision, Earliest, HistoryVerdict, Plan, Totals, Verdict, WalFate, WalVerdict, plan,
};
pub use project::project;
pub use reason::Reason;
pub use stored::{
    Backup, Ended, HistoryFile, Leftover, Reader, RunningBackup, Stored, WalFile, WalFileKind,
};
