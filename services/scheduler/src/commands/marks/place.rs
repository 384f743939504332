//! The place of a manual backup that is kept on after it had ended, or of which something else was found out.

use events::document::ManualBackup;

use super::*;
use crate::commands::manual::counts;

impl World {
    /// A manual backup that has expired gave its place away. One that is to be kept for longer, because it was held or
    /// nobody has marked it yet, needs one again, or is refused. Whether a place was taken for it.
    pub(super) async fn take_place_to_keep(
        &self,
        given: &Given,
        of: Of<'_>,
        summary: &BackupSummary,
        update: &BackupUpdate,
    ) -> Result<bool, Unfinished> {
        let mark = self.read_mark(of).await?;
        if summary.trigger != Trigger::Manual || mark.commands.contains(&given.id) {
            return Ok(false);
        }
        // What is refused anyway is refused where it is done.
        let Ok(wanted) = updated(of, summary, &mark, update, None) else {
            return Ok(false);
        };
        let now = self.clock.now();
        let counted = |mark: &BackupMark| counts(&effective(summary.clone(), mark), mark, now);
        if counted(&mark) || !counted(&wanted) {
            return Ok(false);
        }
        self.take_manual_place(of.instance, of.id, of.branch)
            .await?;
        Ok(true)
    }

    /// One that counts after all has a place: it was undeleted while it was being deleted, or is sound again.
    pub(super) async fn keep_place_of(
        &self,
        of: Of<'_>,
        summary: &BackupSummary,
    ) -> Result<(), Unfinished> {
        let mark = self.read_mark(of).await?;
        match counts(&effective(summary.clone(), &mark), &mark, self.clock.now()) {
            true => self.give_place(of, summary).await,
            false => Ok(()),
        }
    }

    /// A manual backup that was found damaged counts no longer. One that was found sound again counts, also beyond the
    /// limit: what is stored is not refused.
    pub(super) async fn place_as_found(&self, of: Of<'_>) -> Result<(), Unfinished> {
        let mark = self.read_mark(of).await?;
        if mark.is_damaged() {
            return self.give_manual_place_back(of.instance, of.id).await;
        }
        let Some((document, _)) = self.bus.instances().get(of.instance).await? else {
            return Ok(());
        };
        if document.removing || document.manual_backups.contains_key(&of.id) {
            return Ok(());
        }
        match self.manifest(of).await? {
            Some(summary) => self.keep_place_of(of, &summary).await,
            None => Ok(()),
        }
    }

    async fn give_place(&self, of: Of<'_>, summary: &BackupSummary) -> Result<(), Unfinished> {
        let place = ManualBackup {
            branch: of.branch.clone(),
            requested_at: summary.requested_at,
        };
        let _document = self
            .update_document(of.instance, |mut document| {
                let _none = document.manual_backups.insert(of.id, place.clone());
                Ok(document)
            })
            .await?;
        self.mirror(of.instance).await
    }
}
