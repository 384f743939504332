//! The first state of a branch: it is new, or NATS was lost, or the rules were not there before.

use ::alerts::{BranchState, Fact};
use bus::BusError;
use events::{BranchName, InstanceDocument, InstanceName, Timestamp, subject};
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
        let summaries: Vec<_> = futures::stream::iter(ids.clone())
            .map(read)
            .buffer_unordered(MANIFESTS_AT_ONCE)
            .try_filter_map(|summary| std::future::ready(Ok(summary)))
            .try_collect()
            .await?;
        let mut backups: Vec<_> = summaries
            .iter()
            // By the source's clock, which may be behind: it was not before it was asked for.
            .map(|s| (s.backed_up_at.max(s.requested_at), heard::completed(s)))
            .collect();
        backups.sort_by_key(|(at, _)| *at);
        for (at, completed) in backups {
            state.note(at, Fact::BackupCompleted(completed), now);
        }
        // What was found damaged is so still, however long ago it was read; what is to go is not relied on.
        for (backup_id, mark) in reader.marks().await?.known {
            let told = mark.is_damaged() && mark.deletion.is_none();
            if told && ids.contains(&backup_id) {
                let problem = Some("a verification found it damaged".to_owned());
                state.note(now, Fact::BackupVerified { backup_id, problem }, now);
            }
        }
        state.note(now, self.promise(document, branch), now);
        Ok(state)
    }

    /// Whether somebody stopped the branch's server, as far as the bus remembers.
    pub(super) async fn note_stop(
        &self,
        state: &mut BranchState,
        (instance, branch): (&InstanceName, &BranchName),
    ) -> Result<(), BusError> {
        for (what, fact) in [
            ("branch.stopped", Fact::ServerStopped),
            ("branch.started", Fact::ServerStarted),
            // What was stopped before was another branch of this name.
            ("branch.registered", Fact::ServerStarted),
        ] {
            let said = format!("{}.{what}.{instance}.{branch}", subject::ROOT);
            if let Some(said) = self.bus.last_on(&said).await? {
                state.note(said.time, fact, self.clock.now());
            }
        }
        Ok(())
    }
}
