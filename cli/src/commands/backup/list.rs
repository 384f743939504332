//! `zektor backup list`.

use events::query::{self, BackupStatus, BackupView};
use events::{ScheduleId, Timestamp, Trigger};
use serde::Serialize;

use super::show::{state, why_damaged};
use crate::arguments::{BackupList, Listed};
use crate::commands::{named, schedule};
use crate::failure::{Ending, Failure};
use crate::moment;
use crate::output::{Reply, Room, day, day_minute, minute, or_dash, second, size, table};
use crate::session::Session;

/// As many as the catalog gives at once.
pub(crate) const PAGE: u32 = 1000;
/// Names longer than this are shortened on a terminal, if they can be told apart then.
const NAME_WIDTH: usize = 17;
/// Of so many it is said below the table what is wrong, on a terminal.
const MOST_NOTES: usize = 10;
/// Characters of what is wrong on a terminal; all of it is in `backup show`.
const NOTE_WIDTH: usize = 160;

/// What is listed, in the field of the contract and one more.
#[derive(Debug, Serialize)]
struct Document {
    backups: Vec<BackupView>,
    /// What to give to --offset for those that were left out by --limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_offset: Option<u32>,
}

/// Lists an instance's backups, newest first.
pub(crate) async fn list(session: &Session, list: BackupList) -> Result<Reply, Failure> {
    let given = |text: Option<&String>| text.map(|text| moment::parse(text)).transpose();
    let (from, to) = (given(list.from.as_ref())?, given(list.to.as_ref())?);
    moment::in_order(from, to)?;
    let schedule_id = match &list.schedule {
        None => None,
        Some(text) => Some(schedule_id(session, &list, text).await?),
    };
    let mut question = query::BackupList {
        instance: Some(list.instance.clone()),
        branch: list.branch.clone(),
        status: match list.status {
            Some(Listed::In(status)) => Some(status),
            Some(Listed::Damaged) | None => None,
        },
        schedule_id,
        from,
        to,
        name: list.name.clone(),
        all: list.all,
        limit: None,
        offset: list.offset,
        after: None,
    };
    let (mut backups, left_out) = match is_asked_of_the_catalog(&list) {
        true => {
            // One more than is shown: then it is known whether there is more.
            let most = list.limit.map(|limit| limit.saturating_add(1));
            (all(session, question, most).await?, 0)
        }
        false => {
            question.offset = 0;
            let mut backups = all(session, question, None).await?;
            backups.retain(|backup| is_wanted(backup, &list));
            let left_out = backups.len().min(list.offset as usize);
            (backups, left_out)
        }
    };
    drop(backups.drain(..left_out));
    let shown = list.limit.unwrap_or(u32::MAX);
    let more = backups.len() > shown as usize;
    backups.truncate(shown as usize);
    let next_offset = more.then(|| list.offset.saturating_add(shown));
    if backups.is_empty() {
        // Tells "no backup" from "no such instance".
        let question = query::InstanceShow {
            instance: list.instance.clone(),
        };
        let _detail = session.ask_patiently(&question).await?;
        if let Some(branch) = &list.branch {
            session.require_branch(&list.instance, branch).await?;
        }
    }
    let mut text = match backups.is_empty() {
        true => nothing(&list),
        false => text(&backups, session.setting.clock.now(), Room::of_stdout()),
    };
    if let Some(offset) = next_offset {
        text.push_str(&format!(
            "\nThere are more; go on with --offset {offset} --limit {shown}.\n"
        ));
    }
    let document = Document {
        backups,
        next_offset,
    };
    Reply::new(&document, text)
}

/// What the catalog is not asked for is not what its pages are counted by.
fn is_asked_of_the_catalog(list: &BackupList) -> bool {
    list.trigger.is_none() && list.status != Some(Listed::Damaged)
}

fn is_wanted(backup: &BackupView, list: &BackupList) -> bool {
    let trigger = list.trigger.map(Trigger::from);
    let damaged = list.status != Some(Listed::Damaged) || why_damaged(backup).is_some();
    damaged && (trigger.is_none() || backup.trigger == trigger)
}

/// A schedule that is gone has no name any more, but backups.
async fn schedule_id(
    session: &Session,
    list: &BackupList,
    text: &str,
) -> Result<ScheduleId, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    match schedule::found(session, &list.instance, text).await {
        Ok(found) => Ok(found.id),
        Err(failure) if failure.ending == Ending::NotFound => {
            let question = query::BackupList {
                instance: Some(list.instance.clone()),
                name: Some(text.to_owned()),
                all: true,
                ..query::BackupList::default()
            };
            let named = all(session, question, None).await?;
            gone_schedule(&named, text).ok_or(failure)
        }
        Err(failure) => Err(failure),
    }
}

/// The schedule of whose backups the names begin with its name, if that is only one: it is known by nothing else once it
/// is gone.
fn gone_schedule(backups: &[BackupView], name: &str) -> Option<ScheduleId> {
    let of_it = |backup: &&BackupView| {
        let rest = backup.name.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(' '))
    };
    let mut found: Vec<ScheduleId> = backups
        .iter()
        .filter(of_it)
        .filter_map(|backup| backup.schedule_id)
        .collect();
    found.sort_unstable();
    found.dedup();
    match found[..] {
        [one] => Some(one),
        _ => None,
    }
}

fn nothing(list: &BackupList) -> String {
    let filtered = list.branch.is_some()
        || list.status.is_some()
        || list.schedule.is_some()
        || list.trigger.is_some()
        || list.from.is_some()
        || list.to.is_some()
        || list.name.is_some()
        || list.offset > 0;
    match filtered {
        true => "No backup is like that.".to_owned(),
        false => format!(
            "No backup. Take one: zektor backup create {} --wait",
            list.instance
        ),
    }
}

/// The backups that match, page by page; at most `limit`.
pub(crate) async fn all(
    session: &Session,
    mut question: query::BackupList,
    limit: Option<u32>,
) -> Result<Vec<BackupView>, Failure> {
    let mut left = limit.unwrap_or(u32::MAX);
    let mut backups = Vec::new();
    while left > 0 {
        question.limit = Some(left.min(PAGE));
        let found = session.ask(&question).await?;
        left = left.saturating_sub(u32::try_from(found.backups.len()).unwrap_or(left));
        backups.extend(found.backups);
        question.after = found.next;
        question.offset = 0;
        if question.after.is_none() {
            break;
        }
    }
    Ok(backups)
}

fn text(backups: &[BackupView], now: Timestamp, room: Room) -> String {
    let ids: Vec<_> = backups.iter().map(|backup| backup.id.0).collect();
    let short = named::short(&ids);
    let names: Vec<&str> = backups.iter().map(|backup| &*backup.name).collect();
    let names = room.apart(&names, NAME_WIDTH);
    let told = backups.iter().zip(&short).zip(names);
    let rows = told.map(|((backup, id), name)| {
        vec![
            id.clone(),
            name,
            backup.branch.to_string(),
            state(backup),
            or_dash(backup.backed_up_at.map(second)),
            or_dash(backup.size_bytes.map(size)),
            stays(backup, now),
        ]
    });
    let header = [
        "id",
        "name",
        "branch",
        "status",
        "ended (utc)",
        "size",
        "kept until",
    ];
    let mut text = table(&header, rows.collect());
    text.push_str(&notes(backups, &short, room));
    text
}

/// Why those failed that did, unless a later one of the branch succeeded, and what is wrong with those that are damaged;
/// the newest first.
fn notes(backups: &[BackupView], short: &[String], room: Room) -> String {
    let all: Vec<String> = backups
        .iter()
        .zip(short)
        .filter(|(backup, _)| !is_made_up_for(backup, backups))
        .filter_map(|(backup, id)| Some(format!("{id}  {}\n", wrong(backup, room)?)))
        .collect();
    let Some(first) = backups.first().filter(|_| !all.is_empty()) else {
        return String::new();
    };
    let most = match room {
        Room::Terminal => MOST_NOTES,
        Room::Unlimited => all.len(),
    };
    let shown: String = all.iter().take(most).map(String::as_str).collect();
    let more = match all.len().saturating_sub(most) {
        0 => String::new(),
        more => format!("and {more} more; "),
    };
    format!(
        "\n{shown}{more}all of it: zektor backup show {} ID\n",
        first.instance
    )
}

/// Whether it failed or was skipped, and a sound one of its branch was asked for later and completed.
fn is_made_up_for(backup: &BackupView, backups: &[BackupView]) -> bool {
    matches!(backup.status, BackupStatus::Failed | BackupStatus::Skipped)
        && backups.iter().any(|other| {
            other.branch == backup.branch
                && other.status == BackupStatus::Completed
                && other.sound != Some(false)
                && other.requested_at > backup.requested_at
        })
}

fn wrong(backup: &BackupView, room: Room) -> Option<String> {
    let asked = backup.requested_at.map(minute);
    let asked = asked.map_or_else(String::new, |at| format!(", asked for {at}"));
    let error = backup.error.as_deref().unwrap_or("nobody knows why");
    let text = match backup.status {
        BackupStatus::Failed => format!("failed{asked}: {error}"),
        BackupStatus::Skipped => format!("skipped{asked}: {error}"),
        _ => why_damaged(backup)?,
    };
    Some(room.cut(&text, NOTE_WIDTH))
}

/// Until when it stays, in a word or two.
fn stays(backup: &BackupView, now: Timestamp) -> String {
    if backup.hold.is_some() {
        return "held".to_owned();
    }
    if let Some(gone) = backup.deleted_at {
        return format!("gone {}", day(gone));
    }
    if let Some(deletion) = &backup.deletion {
        if deletion.delete_after <= now {
            return "goes when it may".to_owned();
        }
        return format!("goes {}", day_minute(deletion.delete_after));
    }
    match (backup.status, backup.expires_at) {
        (_, Some(expires_at)) => minute(expires_at),
        (BackupStatus::Completed, None) => "no end".to_owned(),
        (_, None) => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests;
