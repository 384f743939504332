//! Which backup is meant.

use events::BackupId;
use events::query::{self, BackupStatus, BackupView};

use super::list::all;
use super::show::state;
use crate::arguments::OfBackup;
use crate::commands::named;
use crate::failure::{Ending, Failure};
use crate::output::moment;
use crate::session::Session;

/// The backup that is called so: by its id, its name, or the beginning of its id. Of several with the name the one that
/// is there is meant.
pub(crate) async fn find(session: &Session, of: &OfBackup) -> Result<BackupView, Failure> {
    find_that(session, of, is_there).await
}

/// The same; of several with the name one that failed is meant.
pub(crate) async fn find_failed(session: &Session, of: &OfBackup) -> Result<BackupView, Failure> {
    find_that(session, of, |one| one.status == BackupStatus::Failed).await
}

/// Of one that failed, was never taken, or is gone only the name is left; another one may have it.
fn is_there(backup: &BackupView) -> bool {
    let ended = matches!(backup.status, BackupStatus::Failed | BackupStatus::Skipped);
    !ended && backup.deleted_at.is_none()
}

async fn find_that(
    session: &Session,
    of: &OfBackup,
    meant: impl Fn(&BackupView) -> bool,
) -> Result<BackupView, Failure> {
    let text = of.backup.trim();
    if let Ok(id) = text.parse::<BackupId>() {
        let question = query::BackupShow {
            instance: Some(of.instance.clone()),
            id,
        };
        return session.ask_patiently(&question).await;
    }
    let mut question = query::BackupList {
        instance: Some(of.instance.clone()),
        all: true,
        ..query::BackupList::default()
    };
    // The beginning of an id can only be looked for among all of them.
    if !named::is_prefix(text) {
        question.name = Some(text.to_owned());
    }
    let backups = all(session, question, None).await?;
    if let Some(found) = chosen(&backups, text, meant)? {
        return Ok(found.clone());
    }
    // Tells "no such backup" from "no such instance".
    let question = query::InstanceShow {
        instance: of.instance.clone(),
    };
    let _detail = session.ask_patiently(&question).await?;
    Err(Failure::new(
        Ending::NotFound,
        query::NOT_FOUND,
        format!("instance {} has no backup {text:?}", of.instance),
        format!(
            "see `zektor backup list {}`; of an id six characters are needed",
            of.instance
        ),
    ))
}

fn chosen<'a>(
    backups: &'a [BackupView],
    text: &str,
    meant: impl Fn(&BackupView) -> bool,
) -> Result<Option<&'a BackupView>, Failure> {
    let mut named = backups.iter().filter(|one| one.name == text && meant(one));
    if let (Some(one), None) = (named.next(), named.next()) {
        return Ok(Some(one));
    }
    named::find(backups, text, |one| one.id.0, |one| &one.name, told)
}

fn told(backup: &BackupView) -> String {
    let at = backup.backed_up_at.or(backup.requested_at);
    let at = at.map(|at| format!(", {}", moment(at)));
    let name = &backup.name;
    format!("{name}: {}{}", state(backup), at.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use events::query::{BackupStatus, BackupView};

    use super::super::show::tests::completed;
    use super::{chosen, is_there};

    #[test]
    fn of_several_with_a_name_the_one_that_is_meant() {
        let failed = BackupView {
            id: "0190a5d0-0001-7000-8000-000000000002".parse().unwrap(),
            status: BackupStatus::Failed,
            backed_up_at: None,
            ..completed()
        };
        let (there, name) = (completed(), completed().name);
        let backups = [failed.clone(), there.clone()];
        let found = |meant: fn(&BackupView) -> bool| chosen(&backups, &name, meant).unwrap();
        assert_eq!(found(is_there), Some(&there));
        assert_eq!(found(|one| !is_there(one)), Some(&failed));
        let failure = chosen(&backups, "0190a5", is_there).unwrap_err();
        for part in [
            "0190a5d0-0000-7000-8000-000000000001  manual 2026-03-01: completed, bad pages, 2026-03-01 10:00:12 UTC",
            "failed, bad pages, 2026-03-01 10:00:00 UTC",
        ] {
            assert!(failure.hint.contains(part), "{failure:?}");
        }
    }
}
