//! Another name for a stored backup, or another end.

use super::*;
use crate::commands::backup_names::refuse_generated;

impl World {
    /// Writes the name and the end that are wanted into the mark.
    pub(super) async fn name_and_keep(
        &self,
        given: &Given,
        of: Of<'_>,
        summary: &BackupSummary,
        update: &BackupUpdate,
        name: Option<&str>,
    ) -> Result<(), Unfinished> {
        if let Some(name) = name {
            self.take_new_name(given, of, summary, name).await?;
        }
        let changed = self
            .change_mark(of, Some(given.id), |mark| {
                updated(of, summary, mark, update, name.map(str::to_owned))
            })
            .await;
        if let Some(name) = name {
            self.leave_old_name(of, summary, name, &changed).await?;
        }
        changed.map(drop)
    }

    /// Takes the name before the mark says it.
    pub(super) async fn take_new_name(
        &self,
        given: &Given,
        of: Of<'_>,
        summary: &BackupSummary,
        name: &str,
    ) -> Result<(), Unfinished> {
        let mark = self.read_mark(of).await?;
        // Called so already, or by an earlier delivery, and perhaps otherwise since.
        if name == called(summary, &mark) || mark.commands.contains(&given.id) {
            return Ok(());
        }
        refuse_generated(name)?;
        self.take_name(of.instance, name, (of.branch, of.id)).await
    }

    /// Leaves the name that the backup had, or the one that it did not get.
    pub(super) async fn leave_old_name(
        &self,
        of: Of<'_>,
        summary: &BackupSummary,
        name: &str,
        changed: &Result<BackupMark, Unfinished>,
    ) -> Result<(), Unfinished> {
        let now = self.read_mark(of).await?;
        let free = match changed {
            Ok(before) => called(summary, before),
            Err(Unfinished::Refused(_)) => name,
            Err(_) => return Ok(()),
        };
        match free == called(summary, &now) {
            true => Ok(()),
            false => self.leave_name(of.instance, free, of.id).await,
        }
    }
}

fn called<'a>(summary: &'a BackupSummary, mark: &'a BackupMark) -> &'a str {
    mark.name.as_deref().unwrap_or(&summary.name)
}

pub(super) fn updated(
    of: Of<'_>,
    summary: &BackupSummary,
    mark: &BackupMark,
    update: &BackupUpdate,
    name: Option<String>,
) -> Result<BackupMark, Refusal> {
    let expires_at = match (update.retention, update.forever) {
        (Some(_), true) => {
            return Err(invalid(
                "a backup cannot be kept for a time and for ever",
                "Give either a retention or --forever.",
            ));
        }
        (Some(retention), false) => Some(Some(retention.expires_at(summary.kept_from()))),
        (None, true) => Some(None),
        (None, false) => None,
    };
    if expires_at.is_some() {
        refuse_to_go(of, mark, DeletedBy::User)?;
        refuse_to_go(of, mark, DeletedBy::Retention)?;
    }
    if expires_at.is_none() && name.is_none() {
        return Err(invalid(
            "nothing is to be changed",
            "Give another name, a retention, or --forever.",
        ));
    }
    Ok(BackupMark {
        name: name.or_else(|| mark.name.clone()),
        expiry: expires_at
            .map(|expires_at| Expiry { expires_at })
            .or(mark.expiry),
        ..mark.clone()
    })
}
