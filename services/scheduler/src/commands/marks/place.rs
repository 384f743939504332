//! The place of a manual backup that is kept on after it had ended.

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
}
