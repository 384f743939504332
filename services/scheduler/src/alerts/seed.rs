//! The first state of a branch: it is new, or NATS was lost, or the rules were not there before.

use ::alerts::{BranchState, Fact};
use events::{BranchName, InstanceDocument, Timestamp};
use futures::{StreamExt as _, TryStreamExt as _};
use repository::{ErrorClass, RepositoryError};

use super::{Watch, heard};

/// Manifests read at once.
const MANIFESTS_AT_ONCE: usize = 8;

impl Watch {
    /// What the repository and the document know: a backup that is there is not overdue, whoever has forgotten it.
    pub(super) async fn seeded(
        &self,
        document: &InstanceDocument,
        branch: &BranchName,
        now: Timestamp,
    ) -> Result<BranchState, RepositoryError> {
        let mut state = BranchState::new(now);
        let reader = self.repository.reader(&document.instance, branch);
        let ids = reader.list_backups().await?;
        let read = |id| {
            let reader = &reader;
            async move {
                match reader.manifest(id).await {
                    Ok(manifest) => Ok(Some(manifest.summary)),
                    Err(error) if error.class() == ErrorClass::Transient => Err(error),
                    // Gone meanwhile, or damaged: it is no backup to rely on.
                    Err(_) => Ok(None),
                }
            }
        };
        let summaries: Vec<_> = futures::stream::iter(ids)
            .map(read)
            .buffer_unordered(MANIFESTS_AT_ONCE)
            .try_filter_map(|summary| std::future::ready(Ok(summary)))
            .try_collect()
            .await?;
        let mut backups: Vec<_> = summaries
            .iter()
            .map(|s| (s.backed_up_at, heard::completed(s)))
            .collect();
        backups.sort_by_key(|(at, _)| *at);
        for (at, completed) in backups {
            state.note(at, Fact::BackupCompleted(completed));
        }
        let (promise, since) = self.promise(document, branch, now);
        state.note(since.unwrap_or(now), promise);
        Ok(state)
    }
}
