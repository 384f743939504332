//! `zektor window`: from when to when a branch can be restored, and what is missing in between.

use events::query::{self, BackupStatus, BackupView, WalGap};
use events::{BackupId, BranchName, InstanceName, Timestamp};
use pg_format::{Lsn, TimelineId};
use repository::{ErrorClass, RepositoryError};
use serde::Serialize;

use super::backup::{PAGE, all};
use super::wal::position;
use crate::arguments::OfBranch;
use crate::failure::Failure;
use crate::output::{Reply, exact, note, or_dash, pairs, table};
use crate::session::Session;

/// The restorable window of a branch.
#[derive(Debug, PartialEq, Serialize)]
struct Window {
    instance: InstanceName,
    branch: BranchName,
    /// The end of the first backup that can be restored.
    earliest: Option<Timestamp>,
    latest: Option<Timestamp>,
    latest_lsn: Option<Lsn>,
    gaps: Vec<WindowGap>,
    /// Whether every moment from `earliest` to `latest` can be restored.
    complete: bool,
    /// The backup that `earliest` is the end of.
    earliest_backup_id: Option<BackupId>,
}

/// WAL that is missing inside the window.
#[derive(Debug, PartialEq, Serialize)]
struct WindowGap {
    timeline: TimelineId,
    from_lsn: Lsn,
    to_lsn: Lsn,
    /// The end of the first backup after it: from then on the branch can be restored again.
    restorable_again_at: Option<Timestamp>,
}

/// How far the archive is proven complete.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Proven {
    lsn: Option<Lsn>,
    at: Option<Timestamp>,
}

/// Shows the restorable window of a branch.
pub(crate) async fn window(session: &Session, of: OfBranch) -> Result<Reply, Failure> {
    let window = of_branch(session, of).await?;
    Reply::new(&window, text(&window))
}

/// Where WAL is missing, if nothing after it can be restored: there is no backup behind it yet.
pub(crate) async fn open_gap(session: &Session, of: OfBranch) -> Result<Option<Lsn>, Failure> {
    let window = of_branch(session, of).await?;
    Ok(window.open_gap().map(|gap| gap.from_lsn))
}

async fn of_branch(session: &Session, of: OfBranch) -> Result<Window, Failure> {
    let OfBranch { instance, branch } = of;
    let question = query::WalSummary {
        instance: instance.clone(),
        branch: branch.clone(),
    };
    let wal = session.ask_patiently(&question).await?;
    let question = query::BackupList {
        instance: Some(instance.clone()),
        branch: Some(branch.clone()),
        status: Some(BackupStatus::Completed),
        limit: Some(PAGE),
        offset: 0,
    };
    let backups = all(session, question).await?;
    let proven = proven(session, &instance, &branch).await?;
    Ok(computed(instance, branch, &backups, &wal.gaps, proven))
}

impl Window {
    /// The first gap that no backup lies behind.
    fn open_gap(&self) -> Option<&WindowGap> {
        self.gaps
            .iter()
            .find(|gap| gap.restorable_again_at.is_none())
    }
}

/// From the archiver, or from what it last wrote into the repository.
async fn proven(
    session: &Session,
    instance: &InstanceName,
    branch: &BranchName,
) -> Result<Proven, Failure> {
    if let Some(live) = position(session, instance, branch).await?
        && live.proven_at.is_some()
    {
        return Ok(Proven {
            lsn: live.archived_lsn,
            at: live.proven_at,
        });
    }
    let nothing = Proven {
        lsn: None,
        at: None,
    };
    let Some(repository) = session.repository()? else {
        note("no archiver answers; set ZEKTOR_REPOSITORY_URL to read its last position");
        return Ok(nothing);
    };
    match repository.reader(instance, branch).wal_position().await {
        Ok(position) => {
            note(
                "no archiver answers; the end of the window is its last position in the repository",
            );
            Ok(Proven {
                lsn: Some(position.lsn),
                at: Some(position.proven_at),
            })
        }
        Err(error) if is_absent(&error) => Ok(nothing),
        Err(error) => Err(error.into()),
    }
}

fn is_absent(error: &RepositoryError) -> bool {
    error.class() == ErrorClass::Absent
}

/// A backup is restorable on its own, unless WAL is missing between its start and its stop; a gap after it
/// is inside the window.
fn computed(
    instance: InstanceName,
    branch: BranchName,
    backups: &[BackupView],
    gaps: &[WalGap],
    proven: Proven,
) -> Window {
    let mut usable: Vec<Usable> = backups.iter().filter_map(Usable::of).collect();
    usable.retain(|backup| !gaps.iter().any(|gap| backup.is_hit_by(gap)));
    usable.sort_by_key(|backup| backup.at);
    let earliest = usable.first();
    let inside = gaps.iter().filter(|gap| {
        earliest
            .is_some_and(|backup| gap.to_lsn > backup.stop_lsn && gap.timeline >= backup.timeline)
    });
    let gaps: Vec<WindowGap> = inside
        .map(|gap| WindowGap {
            timeline: gap.timeline,
            from_lsn: gap.from_lsn,
            to_lsn: gap.to_lsn,
            restorable_again_at: usable
                .iter()
                .find(|backup| backup.start_lsn >= gap.to_lsn && backup.timeline >= gap.timeline)
                .map(|backup| backup.at),
        })
        .collect();
    // A completed backup has its WAL in the archive, whatever the archiver has proven since.
    let newest = usable.last().map(|backup| backup.at);
    let mut window = Window {
        instance,
        branch,
        earliest: earliest.map(|backup| backup.at),
        latest: newest.map(|newest| proven.at.map_or(newest, |at| at.max(newest))),
        latest_lsn: proven
            .lsn
            .or_else(|| usable.last().map(|backup| backup.stop_lsn)),
        complete: earliest.is_some() && gaps.is_empty(),
        gaps,
        earliest_backup_id: earliest.map(|backup| backup.id),
    };
    // What is archived behind such a gap restores nothing. When its beginning was written is not known; the
    // last backup before it is the moment that is sure.
    if let Some(gap) = window.open_gap() {
        let lsn = gap.from_lsn;
        (window.latest, window.latest_lsn) = (newest, Some(lsn));
    }
    window
}

/// What counts of a completed backup.
struct Usable {
    id: BackupId,
    at: Timestamp,
    timeline: TimelineId,
    start_lsn: Lsn,
    stop_lsn: Lsn,
}

impl Usable {
    fn of(backup: &BackupView) -> Option<Usable> {
        Some(Usable {
            id: backup.id,
            at: backup.backed_up_at?,
            timeline: backup.timeline?,
            start_lsn: backup.start_lsn?,
            stop_lsn: backup.stop_lsn?,
        })
    }

    fn is_hit_by(&self, gap: &WalGap) -> bool {
        gap.timeline == self.timeline && gap.from_lsn < self.stop_lsn && gap.to_lsn > self.start_lsn
    }
}

fn text(window: &Window) -> String {
    let Some(earliest) = window.earliest else {
        let Window {
            instance, branch, ..
        } = window;
        return format!(
            "Nothing of {branch} can be restored yet; take a backup: zektor backup create {instance} --branch {branch} --wait"
        );
    };
    let complete = match window.complete {
        true => "yes, every moment in between can be restored",
        false => "no",
    };
    let mut text = pairs(&[
        ("earliest", Some(exact(earliest))),
        ("latest", Some(or_dash(window.latest.map(exact)))),
        ("latest LSN", Some(or_dash(window.latest_lsn))),
        ("complete", Some(complete.to_owned())),
    ]);
    if !window.gaps.is_empty() {
        let rows = window.gaps.iter().map(|gap| {
            vec![
                gap.timeline.to_string(),
                gap.from_lsn.to_string(),
                gap.to_lsn.to_string(),
                gap.restorable_again_at
                    .map_or_else(|| "not yet".to_owned(), exact),
            ]
        });
        text.push('\n');
        let header = ["timeline", "missing from", "to", "restorable again at"];
        text.push_str(&table(&header, rows.collect()));
    }
    text
}

#[cfg(test)]
mod tests;
