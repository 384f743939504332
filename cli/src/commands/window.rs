//! `zektor window`: from when to when a branch can be restored, and what is missing in between.
//!
//! A restorer answers from the repository. Without one, or without any bus, the repository is read from here if it is
//! known: what can be restored is asked for most urgently when nothing runs any more.

use std::time::Duration;

use events::window::{Window, WindowAnswer, WindowQuestion, WindowReport};
use events::{BranchName, InstanceName, subject};
use pg_format::Lsn;
use repository::{Repository, RepositoryError};
use serde::Serialize;
use wal_index::IndexSettings;

use super::status::nobody_answers;
use super::wal::{position, standstill};
use crate::arguments::OfBranch;
use crate::failure::{Ending, Failure};
use crate::output::{Reply, exact, note, or_dash, pairs, span, table};
use crate::session::{Session, Setting};

/// The repository is listed, and WAL before a gap is looked into.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// The restorable window of a branch, in the fields of the contract and some more.
#[derive(Debug, Serialize)]
struct WindowDocument<'a> {
    instance: &'a InstanceName,
    branch: &'a BranchName,
    #[serde(flatten)]
    report: &'a WindowReport,
    /// That `latest` does not move on now, since when and why; absent while it does, or where nobody can tell.
    standstill: Option<String>,
}

/// Shows the restorable window of a branch.
pub(crate) async fn window(setting: &Setting, of: OfBranch) -> Result<Reply, Failure> {
    let (report, standstill) = match setting.connect().await {
        Ok(session) => {
            let report = report_of(&session, &of).await?;
            let standstill = standing_still(&session, &of, &report.window).await;
            (report, standstill)
        }
        Err(failure) if failure.ending == Ending::Unreachable => {
            let Some(repository) = setting.named_repository()? else {
                return Err(failure);
            };
            note("no stack runs here; what follows is read from the repository");
            (from_repository(&repository, &of).await?, None)
        }
        Err(failure) => return Err(failure),
    };
    let document = WindowDocument {
        instance: &of.instance,
        branch: &of.branch,
        report: &report,
        standstill,
    };
    let mut text = text(&of, &report);
    if let Some(standstill) = &document.standstill {
        text.push_str(&format!("\n{standstill}\n"));
    }
    Reply::new(&document, text)
}

/// Whether the window does not move on; nothing of a branch that is not protected any more, or has no window yet.
async fn standing_still(session: &Session, of: &OfBranch, window: &Window) -> Option<String> {
    let _some = window.earliest?;
    let (document, _) = session.bus.instances().get(&of.instance).await.ok()??;
    let _active = document.branches.get(&of.branch)?.active()?;
    let live = position(session, &of.instance, &of.branch).await.ok()?;
    let now = session.setting.clock.now();
    standstill(live.as_ref(), window.latest, now)
}

/// Where WAL is missing, if nothing after it can be restored: there is no backup behind it yet.
pub(crate) async fn open_gap(session: &Session, of: &OfBranch) -> Result<Option<Lsn>, Failure> {
    let window = of_branch(session, of).await?;
    let open = window
        .gaps
        .iter()
        .find(|gap| gap.restorable_again_at.is_none());
    Ok(open.map(|gap| gap.from_lsn))
}

/// The window, from whoever can tell it.
pub(crate) async fn of_branch(session: &Session, of: &OfBranch) -> Result<Window, Failure> {
    Ok(report_of(session, of).await?.window)
}

async fn report_of(session: &Session, of: &OfBranch) -> Result<WindowReport, Failure> {
    let question = WindowQuestion {
        instance: of.instance.clone(),
        branch: of.branch.clone(),
    };
    let answer = session
        .request(&subject::restorer_window(), &question, ANSWER_WITHIN)
        .await;
    match answer {
        Ok(WindowAnswer::Known(report)) => {
            if report.window.earliest.is_none() {
                session.require_branch(&of.instance, &of.branch).await?;
            }
            Ok(report)
        }
        Ok(WindowAnswer::Unknown { message, hint }) => Err(Failure::new(
            Ending::Failed,
            "window_unknown",
            message,
            hint,
        )),
        Err(error) if nobody_answers(&error) => match session.repository()? {
            Some(repository) => {
                note("no restorer answers; what follows is read from the repository");
                from_repository(&repository, of).await
            }
            None => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// The window as the repository alone tells it.
async fn from_repository(repository: &Repository, of: &OfBranch) -> Result<WindowReport, Failure> {
    let OfBranch { instance, branch } = of;
    let reader = repository.reader(instance, branch);
    if RepositoryError::absent_as_none(reader.record().await)?.is_none() {
        return Err(Failure::not_found(
            format!("the repository has no branch {branch} of an instance {instance}"),
            "check both names, and that ZEKTOR_REPOSITORY_URL is the right one",
        ));
    }
    let archive = repository::archive::read(&reader).await?;
    let settings = IndexSettings::default();
    Ok(WindowReport {
        window: reader.restorable_window(&archive, settings).await?,
        damaged: archive.told_damaged(),
        min_target_age_secs: None,
    })
}

fn text(of: &OfBranch, report: &WindowReport) -> String {
    let OfBranch { instance, branch } = of;
    let window = &report.window;
    let Some(earliest) = window.earliest else {
        return format!(
            "Nothing of {branch} can be restored yet; take a backup: zektor backup create {instance} --branch {branch} --wait"
        );
    };
    let complete = match (window.complete, window.gaps.len()) {
        (true, _) => "yes, every moment in between can be restored".to_owned(),
        (false, 1) => "no, 1 gap".to_owned(),
        (false, gaps) => format!("no, {gaps} gaps"),
    };
    let mut text = pairs(&[
        ("earliest", Some(exact(earliest))),
        ("latest", Some(or_dash(window.latest.map(exact)))),
        ("latest LSN", Some(or_dash(window.latest_lsn))),
        ("complete", Some(complete)),
    ]);
    if let Some(lsn) = window.latest_lsn {
        text.push_str(&format!("\n{}\n", how_old(report.min_target_age_secs, lsn)));
    }
    text.push_str(&damaged_text(report));
    if !window.gaps.is_empty() {
        let rows = window.gaps.iter().map(|gap| {
            let again = gap.restorable_again_at.map(exact);
            vec![
                gap.timeline.to_string(),
                gap.from_lsn.to_string(),
                or_dash(gap.to_lsn),
                or_dash(gap.from.map(exact)),
                again.unwrap_or_else(|| "not yet".to_owned()),
            ]
        });
        text.push('\n');
        let header = [
            "timeline",
            "WAL missing from",
            "to",
            "restorable until",
            "and again from",
        ];
        text.push_str(&table(&header, rows.collect()));
    }
    if window
        .gaps
        .iter()
        .any(|gap| gap.restorable_again_at.is_none())
    {
        text.push_str(&format!(
            "\nNothing later can be restored until there is a backup behind the missing WAL; one is taken by itself, \
             or now:\n  zektor backup create {instance} --branch {branch} --wait\n"
        ));
    }
    text
}

/// How old a moment must be that is asked for by its time.
fn how_old(secs: Option<u64>, lsn: Lsn) -> String {
    match secs {
        Some(0) => format!(
            "--time takes every moment up to the latest; --lsn {lsn} and --latest work too."
        ),
        Some(secs) => format!(
            "--time takes a moment once it is {} old (ZEKTOR_RESTORE_MIN_TARGET_AGE of the restorer);\n--lsn {lsn} and \
             --latest work at once.",
            span(Duration::from_secs(secs))
        ),
        None => format!(
            "--time takes a moment once it is old enough (2 minutes by default, ZEKTOR_RESTORE_MIN_TARGET_AGE of the \
             restorer);\n--lsn {lsn} and --latest work at once."
        ),
    }
}

/// What is known to be damaged, and what that means for the window.
fn damaged_text(report: &WindowReport) -> String {
    let mut text = String::new();
    for backup in &report.damaged {
        let (at, id) = (exact(backup.backed_up_at), backup.backup_id);
        text.push_str(&format!("\nThe backup of {at} is damaged ({id})."));
    }
    let first = report.window.earliest_backup_id;
    if report
        .damaged
        .iter()
        .any(|one| Some(one.backup_id) == first)
    {
        text.push_str("\nThere is no sound one: take a backup now, zektor backup create.\n");
    } else if let (Some(earliest), false) = (report.window.earliest, report.damaged.is_empty()) {
        let them = match report.damaged.len() {
            1 => "it",
            _ => "them",
        };
        let before = report.damaged.iter().any(|one| one.backed_up_at < earliest);
        let begins = match before {
            true => format!(": it begins with the sound backup of {}", exact(earliest)),
            false => String::new(),
        };
        text.push_str(&format!(
            "\nThe window does without {them}{begins}. --time and --latest take a sound one by themselves.\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests;
