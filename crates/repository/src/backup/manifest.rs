//! The manifest: written last, created only if absent. It makes a backup exist.

use events::{BackupId, BackupSummary};
use serde::{Deserialize, Serialize};

use crate::frame::{self, FrameKind};
use crate::{BranchReader, BranchWriter, Digest, RepositoryError, Result, layout};

const LEVEL: i32 = 3;

/// A committed backup. Small: the file index is in parts, the bytes are in packs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// What is shown of it.
    pub summary: BackupSummary,
    /// Size of its chunks in bytes.
    pub chunk_bytes: u64,
    /// What its index must add up to.
    pub totals: Totals,
    /// The parts of the file index, in order.
    pub index: Vec<IndexPart>,
    /// The packs that its chunks are in; the index names them by their place in this list. An
    /// incremental backup's list also has packs of earlier backups of the branch.
    pub packs: Vec<Pack>,
}

/// What a backup adds up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Links to tablespaces.
    pub symlinks: u64,
    /// Chunks, those of zeros included.
    pub chunks: u64,
    /// Sum of the files' sizes.
    pub logical_bytes: u64,
    /// Sum of the sizes of this attempt's packs and index parts.
    pub stored_bytes: u64,
}

/// A part of the file index, `packs/<backup>/<attempt>/index-<number>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexPart {
    /// Its place in the index, from zero.
    pub number: u32,
    /// Size of the object.
    pub stored_bytes: u64,
    /// Size uncompressed.
    pub raw_bytes: u64,
    /// Lines in it.
    pub entries: u64,
    /// BLAKE3 of the whole object.
    pub digest: Digest,
}

/// A pack, `packs/<backup>/<attempt>/<number>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pack {
    /// The backup that wrote it, of the same branch.
    pub backup: BackupId,
    /// The attempt that wrote it.
    pub attempt: String,
    /// Its number in the attempt, from zero.
    pub number: u32,
    /// Size of the object.
    pub bytes: u64,
    /// BLAKE3 of the whole object.
    pub digest: Digest,
}

/// Everything of a backup is stored; [`StoredBackup::commit`] makes it exist.
#[derive(Debug)]
#[must_use = "a backup that is not committed does not exist"]
pub struct StoredBackup {
    pub(super) branch: BranchWriter,
    pub(super) backup: BackupId,
    pub(super) attempt: String,
    pub(super) chunk_bytes: u64,
    /// What was stored; the summary must say the same.
    pub totals: Totals,
    /// The parts of the file index.
    pub index: Vec<IndexPart>,
    /// The packs.
    pub packs: Vec<Pack>,
}

/// Whose manifest stands after a commit.
#[derive(Clone, Debug, PartialEq)]
pub enum CommitOutcome {
    /// This attempt's.
    Committed(Manifest),
    /// Another attempt's, which was first. Nothing of this attempt is needed.
    AlreadyCommitted(Manifest),
}

impl CommitOutcome {
    /// The manifest that stands.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        match self {
            Self::Committed(manifest) | Self::AlreadyCommitted(manifest) => manifest,
        }
    }
}

impl StoredBackup {
    /// Writes the manifest, unless another attempt has. What it names is looked for before and behind: a manifest of
    /// ours over something that is gone is taken back, for the backup cannot be restored.
    ///
    /// May be called again after an error: a manifest of ours whose answer was lost is recognised.
    ///
    /// # Errors
    /// The summary does not describe what was stored, some of that is gone ([`RepositoryError::Vanished`]), the manifest
    /// that is there is damaged, or the store failed, and the manifest may or may not be there.
    #[tracing::instrument(name = "repository.commit", skip_all, fields(backup = %self.backup))]
    pub async fn commit(&self, summary: BackupSummary) -> Result<CommitOutcome> {
        self.check(&summary)?;
        let manifest = Manifest {
            summary,
            chunk_bytes: self.chunk_bytes,
            totals: self.totals,
            index: self.index.clone(),
            packs: self.packs.clone(),
        };
        let key = self.branch.layout.manifest(self.backup);
        if let Some(lost) = self.first_lost().await? {
            // Whoever was first removes what other attempts have stored.
            let standing = self.branch.reader().manifest(self.backup).await;
            return match RepositoryError::absent_as_none(standing)? {
                Some(other) if other.summary.attempt != self.attempt => {
                    Ok(CommitOutcome::AlreadyCommitted(other))
                }
                ours => self.vanished(lost, ours.is_some()).await,
            };
        }
        let text = serde_json::to_vec(&manifest)
            .map_err(|error| RepositoryError::refused(format!("cannot write {key}: {error}")))?;
        let frame = frame::encode(FrameKind::Manifest, "manifest", &text, LEVEL)?;
        let committed = match self.branch.store.create_or_get(&key, frame).await? {
            None => manifest,
            Some(existing) => {
                let existing = decode(&key, self.backup, &existing)?;
                if existing.summary.attempt != self.attempt {
                    return Ok(CommitOutcome::AlreadyCommitted(existing));
                }
                existing
            }
        };
        // We may have stood still between the two, for longer than anybody waits.
        match self.first_lost().await? {
            None => Ok(CommitOutcome::Committed(committed)),
            Some(lost) => self.vanished(lost, true).await,
        }
    }

    /// What cannot be restored must not look as if it could.
    async fn vanished(&self, key: String, committed: bool) -> Result<CommitOutcome> {
        if committed {
            let manifest = self.branch.layout.manifest(self.backup);
            tracing::error!(%key, "what a backup had stored was deleted when it was committed; its manifest goes too");
            self.branch.store.delete(&manifest).await?;
        }
        Err(RepositoryError::Vanished { key })
    }

    fn check(&self, summary: &BackupSummary) -> Result<()> {
        let ours = (
            self.backup,
            self.branch.instance(),
            self.branch.branch(),
            &self.attempt,
        );
        let named = (
            summary.backup_id,
            &summary.instance,
            &summary.branch,
            &summary.attempt,
        );
        let totals = (
            self.totals.files,
            self.totals.logical_bytes,
            self.totals.stored_bytes,
        );
        let said = (summary.files, summary.logical_bytes, summary.stored_bytes);
        if ours == named && totals == said {
            return Ok(());
        }
        Err(RepositoryError::refused(format!(
            "the summary of backup {} does not describe what was stored: {named:?} and {said:?} \
             where {ours:?} and {totals:?} are true",
            self.backup
        )))
    }
}

impl BranchReader {
    /// The manifest of a backup.
    ///
    /// # Errors
    /// There is no such backup (and only then [`RepositoryError::Absent`]), the manifest is damaged,
    /// or the store failed.
    pub async fn manifest(&self, backup: BackupId) -> Result<Manifest> {
        let key = self.layout.manifest(backup);
        decode(&key, backup, &self.store.get(&key).await?)
    }

    /// The ids of the branch's backups, in order of the ids. Only what has a manifest is one.
    ///
    /// # Errors
    /// The store failed.
    pub async fn list_backups(&self) -> Result<Vec<BackupId>> {
        let listed = self.store.list(&self.layout.backups()).await?;
        let committed = listed.iter().filter_map(|(key, _)| layout::committed(key));
        let mut backups: Vec<BackupId> = committed.collect();
        backups.sort();
        Ok(backups)
    }

    /// The manifests of all the branch's backups, in the order in which they ended. For a long list of
    /// large backups, [`Self::summaries`] needs less memory.
    ///
    /// # Errors
    /// One is damaged, or the store failed. To get past a damaged one, ask for each by its id.
    pub async fn manifests(&self) -> Result<Vec<Manifest>> {
        let mut manifests = self.read_manifests(|manifest| manifest).await?;
        manifests.sort_by_key(|Manifest { summary, .. }| (summary.backed_up_at, summary.backup_id));
        Ok(manifests)
    }

    /// What the manifests of all the branch's backups show, in the order in which they ended.
    ///
    /// # Errors
    /// As [`Self::manifests`].
    pub async fn summaries(&self) -> Result<Vec<BackupSummary>> {
        let mut summaries = self.read_manifests(|manifest| manifest.summary).await?;
        summaries.sort_by_key(|summary| (summary.backed_up_at, summary.backup_id));
        Ok(summaries)
    }

    async fn read_manifests<T>(&self, keep: impl Fn(Manifest) -> T) -> Result<Vec<T>> {
        let mut kept = Vec::new();
        for backup in self.list_backups().await? {
            // One that was deleted since the listing is no backup any more.
            let manifest = RepositoryError::absent_as_none(self.manifest(backup).await)?;
            kept.extend(manifest.map(&keep));
        }
        Ok(kept)
    }
}

impl BranchWriter {
    /// Deletes what attempts at `backup` other than `attempt` have stored; gives back how many
    /// objects that were.
    ///
    /// # Errors
    /// The backup is committed and `attempt` is not the one its manifest names; or the store failed.
    pub async fn delete_attempts_except(&self, backup: BackupId, attempt: &str) -> Result<u64> {
        let committed = RepositoryError::absent_as_none(self.manifest(backup).await)?;
        let keeps = committed.map(|manifest| manifest.summary.attempt);
        if let Some(keeps) = keeps.filter(|keeps| keeps != attempt) {
            return Err(RepositoryError::refused(format!(
                "backup {backup} is made of attempt {keeps:?}; attempt {attempt:?} cannot be kept \
                 in its place"
            )));
        }
        if !layout::is_attempt_name(attempt) {
            return Err(RepositoryError::refused(format!(
                "{attempt:?} cannot name an attempt"
            )));
        }
        let keep = format!("{}/", self.layout.attempt(backup, attempt));
        let mut deleted = 0;
        for (key, _) in self.store.list(&self.layout.packs(backup)).await? {
            if !key.starts_with(&keep) {
                self.store.delete(&key).await?;
                deleted += 1;
            }
        }
        self.store.sweep(&self.layout.packs(backup), &keep).await;
        Ok(deleted)
    }
}

fn decode(key: &str, backup: BackupId, frame: &[u8]) -> Result<Manifest> {
    let text = frame::decode(FrameKind::Manifest, key, frame)?;
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|error| RepositoryError::corrupt(key, format!("not a manifest: {error}")))?;
    let named = manifest.packs.iter().map(|pack| &pack.attempt);
    let attempts = named.chain([&manifest.summary.attempt]);
    if manifest.summary.backup_id != backup
        || !attempts.map(String::as_str).all(layout::is_attempt_name)
    {
        return Err(RepositoryError::corrupt(
            key,
            "it is the manifest of something else",
        ));
    }
    Ok(manifest)
}
