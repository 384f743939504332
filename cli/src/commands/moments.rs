//! `zektor moments`: what was dropped, emptied or changed on a large scale, when exactly, and how to come out just
//! before it.

mod commits;

use std::collections::BTreeSet;
use std::time::Duration;

use events::moments::{Moment, MomentKind, MomentObject, Moments, MomentsAnswer, MomentsQuestion};
use events::window::Window;
use events::{BranchName, InstanceName, subject};
use pg_format::Lsn;
use serde::Serialize;

use super::window;
use crate::arguments::OfBranch;
use crate::failure::{Ending, Failure};
use crate::output::{Reply, exact, or_dash, table};
use crate::progress::Progress;
use crate::session::Session;

/// WAL without an index is read itself.
const FOUND_WITHIN: Duration = Duration::from_secs(300);

/// The moments of a branch, in the fields of the contract and some more.
#[derive(Debug, Serialize)]
struct MomentsDocument<'a> {
    instance: &'a InstanceName,
    branch: &'a BranchName,
    #[serde(flatten)]
    found: &'a Moments,
}

/// Finds them.
pub(crate) async fn moments(
    session: &Session,
    question: MomentsQuestion,
) -> Result<Reply, Failure> {
    let progress = Progress::start("the restorer looks through the WAL");
    let answer = session
        .request(&subject::restorer_moments(), &question, FOUND_WITHIN)
        .await;
    drop(progress);
    let answer = answer?;
    if !matches!(&answer, MomentsAnswer::Found(found) if !found.moments.is_empty()) {
        let MomentsQuestion {
            instance, branch, ..
        } = &question;
        session.require_branch(instance, branch).await?;
    }
    match answer {
        MomentsAnswer::Found(found) => {
            let of = OfBranch {
                instance: question.instance.clone(),
                branch: question.branch.clone(),
            };
            // Without it every moment is shown as one that can be restored, and the restore says whether it can.
            let window = window::of_branch(session, &of).await.ok();
            reply(&question, &found, window.as_ref())
        }
        MomentsAnswer::Unknown { message, hint } => Err(Failure::new(
            Ending::Failed,
            "moments_unknown",
            message,
            hint,
        )),
    }
}

fn reply(
    question: &MomentsQuestion,
    found: &Moments,
    window: Option<&Window>,
) -> Result<Reply, Failure> {
    let document = MomentsDocument {
        instance: &question.instance,
        branch: &question.branch,
        found,
    };
    Reply::new(&document, text(question, found, window))
}

/// Whether just before this moment can be restored, as far as the window tells.
fn is_restorable(window: Option<&Window>, moment: &Moment) -> bool {
    let Some(window) = window else {
        return true;
    };
    let at = moment.at;
    let in_gap = window.gaps.iter().any(|gap| {
        gap.from.is_none_or(|from| at > from)
            && gap.restorable_again_at.is_none_or(|again| at < again)
    });
    window.earliest.is_some_and(|earliest| at > earliest) && !in_gap
}

fn text(question: &MomentsQuestion, found: &Moments, window: Option<&Window>) -> String {
    let restorable = |moment: &Moment| is_restorable(window, moment);
    let named = Named::of(&found.moments);
    let mut text = match found.moments.is_empty() {
        true => nothing(question),
        false => list(question, &found.moments, named, &restorable),
    };
    if !found.moments.iter().all(restorable) {
        let MomentsQuestion {
            instance, branch, ..
        } = question;
        text.push_str(&format!(
            "\nWhere no moment to restore to is shown, there is none: it lies before the first sound backup, or where WAL is \
             missing.\nSee: zektor window {instance} --branch {branch}\n"
        ));
    }
    if found.truncated {
        let count = found.moments.len();
        text.push_str(&format!(
            "\nThese are the latest {count}; there were more before. Narrow it with --to, or raise --limit.\n"
        ));
    }
    if let Some(commits) = commits::text(&found.buckets, found.bucket_seconds) {
        text.push('\n');
        text.push_str(&commits);
    }
    if !found.unread.is_empty() {
        text.push_str("\nNot everything could be looked at:\n");
        for unread in &found.unread {
            text.push_str(&format!("  {unread}\n"));
        }
    }
    if let Some(moment) = most_likely(&found.moments).filter(|moment| restorable(moment)) {
        text.push('\n');
        text.push_str(&advice(question, moment, named));
    }
    text
}

fn nothing(question: &MomentsQuestion) -> String {
    let what = match question.only_drops {
        true => "No table and no database was dropped, and no table emptied",
        false => "Nothing was dropped or emptied, and no transaction changed many rows of a table",
    };
    let between = match (question.from, question.to) {
        (None, None) => String::new(),
        (Some(from), None) => format!(" since {}", exact(from)),
        (None, Some(to)) => format!(" until {}", exact(to)),
        (Some(from), Some(to)) => format!(" from {} to {}", exact(from), exact(to)),
    };
    let (instance, branch) = (&question.instance, &question.branch);
    format!("{what} on {instance}/{branch}{between}.\n")
}

fn list(
    question: &MomentsQuestion,
    moments: &[Moment],
    named: Named,
    restorable: &dyn Fn(&Moment) -> bool,
) -> String {
    let (instance, branch) = (&question.instance, &question.branch);
    let day = one_day(moments);
    let on = day
        .as_ref()
        .map_or_else(String::new, |day| format!(" on {day}"));
    let mut text = format!(
        "Moments of {instance}/{branch}{on}, newest last; times are UTC, by the server's clock.\n\n"
    );
    let rows = moments.iter().map(|moment| {
        let at = match day {
            Some(_) => moment.at.format("%H:%M:%S%.6fZ").to_string(),
            None => exact(moment.at),
        };
        let transaction = (moment.xid != 0).then_some(moment.xid);
        let way_back = restorable(moment).then_some(&moment.restore_to);
        vec![
            at,
            words(moment, named),
            or_dash(transaction),
            or_dash(way_back),
        ]
    });
    let header = ["at", "what", "transaction", "restore to"];
    let table = table(&header, rows.collect());
    let mut lines = table.lines();
    let mut push = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    lines.next().into_iter().for_each(&mut push);
    for (line, moment) in lines.zip(moments) {
        push(line);
        if let Some(detail) = &moment.detail {
            push(&format!("    {detail}"));
        }
    }
    text
}

/// The day that all of them are on.
fn one_day(moments: &[Moment]) -> Option<String> {
    let day = |moment: &Moment| moment.at.date_naive();
    let first = moments.first().map(day)?;
    let same = moments.iter().all(|moment| day(moment) == first);
    same.then(|| first.to_string())
}

/// How relations are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    /// All are in one database.
    Alone,
    /// `database/schema.table`
    WithDatabase,
}

impl Named {
    fn of(moments: &[Moment]) -> Self {
        let relations = moments
            .iter()
            .filter(|moment| moment.kind != MomentKind::DropDatabase);
        let databases: BTreeSet<&str> = relations
            .filter_map(|moment| moment.database.as_deref())
            .collect();
        match databases.len() {
            0 | 1 => Named::Alone,
            _ => Named::WithDatabase,
        }
    }

    fn name(self, moment: &Moment) -> Option<String> {
        let relation = moment.relation.as_deref()?;
        Some(match (self, moment.kind, moment.database.as_deref()) {
            (Named::Alone, _, _) | (_, MomentKind::DropDatabase, _) | (_, _, None) => {
                relation.to_owned()
            }
            (Named::WithDatabase, _, Some(database)) => format!("{database}/{relation}"),
        })
    }
}

/// What a transaction did, as one would say it.
fn words(moment: &Moment, named: Named) -> String {
    let relation = named.name(moment);
    let relation = relation.as_deref();
    let noun = match moment.object {
        Some(MomentObject::MaterializedView) => "materialized view",
        Some(MomentObject::Index) => "index",
        Some(MomentObject::Sequence) => "sequence",
        Some(MomentObject::Table | MomentObject::Unknown) | None => "table",
    };
    let table = relation.map_or_else(
        || "a table without a known name".to_owned(),
        |name| format!("{noun} {name}"),
    );
    let rows = |done: &str| match moment.rows {
        Some(rows) => format!("{rows} rows of {table} {done}"),
        None => format!("many rows of {table} {done}"),
    };
    match moment.kind {
        MomentKind::Drop => format!("{table} dropped"),
        MomentKind::Truncate => format!("{table} emptied (truncate)"),
        MomentKind::Rewrite => format!("{table} written anew"),
        MomentKind::DropDatabase => match relation {
            Some(name) => format!("database {name} dropped"),
            None => "a database without a known name dropped".to_owned(),
        },
        MomentKind::Delete => rows("deleted"),
        MomentKind::Update => rows("updated"),
        MomentKind::RestorePoint => match relation {
            Some(name) => format!("restore point {name}"),
            None => "a restore point".to_owned(),
        },
        MomentKind::Unknown => "something that this version has no word for".to_owned(),
    }
}

/// The latest that took data away; without any, the latest that changed much.
fn most_likely(moments: &[Moment]) -> Option<&Moment> {
    let latest = |wanted: &dyn Fn(&Moment) -> bool| {
        let mut latest_first = moments.iter().rev();
        latest_first.find(|moment| wanted(moment))
    };
    latest(&|moment| moment.took_data() || moment.kind == MomentKind::Delete)
        .or_else(|| latest(&|moment| moment.kind == MomentKind::Update))
}

fn advice(question: &MomentsQuestion, moment: &Moment, named: Named) -> String {
    let about = match moment.kind {
        MomentKind::Update => "The last that changed much",
        _ => "The last that took data away",
    };
    let (at, words) = (exact(moment.at), words(moment, named));
    let command = command(question, moment);
    format!(
        "{about}:\n  {at}  {words}, transaction {}\nTo come out just before it, in a new branch:\n  {command}\n\
         With --dry-run it first says what would be in that branch, and changes nothing.\n",
        moment.xid
    )
}

/// The command that comes out just before it.
fn command(question: &MomentsQuestion, moment: &Moment) -> String {
    let MomentsQuestion {
        instance, branch, ..
    } = question;
    let to = &moment.restore_to;
    let flag = match to.parse::<Lsn>() {
        Ok(_) => "--lsn",
        Err(_) => "--time",
    };
    let from = match *branch == BranchName::main() {
        true => String::new(),
        false => format!(" --from {branch}"),
    };
    let kind = match moment.kind {
        MomentKind::Drop | MomentKind::DropDatabase => "drop",
        MomentKind::Truncate => "truncate",
        MomentKind::Delete => "delete",
        MomentKind::Update => "update",
        MomentKind::Rewrite | MomentKind::RestorePoint | MomentKind::Unknown => "moment",
    };
    let name = format!("before-{kind}-{}", moment.xid);
    format!("zektor restore {instance} {flag} {to} --as {name}{from} --wait")
}

#[cfg(test)]
mod tests;
