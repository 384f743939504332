//! Which backup is meant.

use events::BackupId;
use events::query::{self, BackupView};

use super::list::all;
use crate::arguments::OfBackup;
use crate::commands::named;
use crate::failure::{Ending, Failure};
use crate::session::Session;

/// The backup that is called so: by its id, its name, or the beginning of its id.
pub(crate) async fn find(session: &Session, of: &OfBackup) -> Result<BackupView, Failure> {
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
    let found = named::find(&backups, text, |one| one.id.0, |one| &one.name)?;
    if let Some(found) = found {
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
