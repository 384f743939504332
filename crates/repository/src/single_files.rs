//! Reads single small files out of a backup, without bringing back the rest: what must be known before a restore.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::backup::{Chunk, Content, Entry, EntryPath, PartReader, decode_chunk};
use crate::{BranchReader, Manifest, RepositoryError, Result};

/// Files of PGDATA by path.
type Files = BTreeMap<String, Bytes>;

impl BranchReader {
    /// The files of PGDATA with these paths. One that is longer than `most_bytes`, or not in the backup, is left out.
    ///
    /// Reads the whole file index, and of the packs only what is asked for.
    ///
    /// # Errors
    /// Something in the repository is absent or damaged, or the store failed.
    pub async fn backed_up_files(
        &self,
        manifest: &Manifest,
        paths: &[&str],
        most_bytes: u64,
    ) -> Result<Files> {
        let wanted: BTreeSet<EntryPath> = paths.iter().map(|path| EntryPath::data(*path)).collect();
        let mut contents: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut parts = PartReader::new(self, manifest);
        while let Some(entries) = parts.next().await? {
            for Entry { path, content, .. } in entries {
                let Content::File { size, chunks, .. } = content else {
                    continue;
                };
                if size > most_bytes || !wanted.contains(&path) {
                    continue;
                }
                let file = contents.entry(path.path).or_default();
                for chunk in chunks {
                    match chunk {
                        Chunk::Zeros(bytes) => file.resize(file.len() + bytes as usize, 0),
                        Chunk::Stored(chunk) => {
                            let key = parts.pack_key(chunk.pack);
                            let pack = manifest.packs.get(chunk.pack as usize);
                            let pack_bytes = pack.map_or(0, |pack| pack.bytes);
                            let start = u64::from(chunk.offset);
                            let range = start..start + u64::from(chunk.stored_bytes);
                            let stored = self.store.get_range(&key, range, pack_bytes).await?;
                            let name = key.clone();
                            let decode = move || decode_chunk(&name, &chunk, stored);
                            let raw = tokio::task::spawn_blocking(decode).await;
                            let raw = raw.map_err(|error| {
                                RepositoryError::task("decompress", &key, error)
                            })?;
                            file.extend_from_slice(&raw?);
                        }
                    }
                }
            }
        }
        let files = contents.into_iter().map(|(path, file)| (path, file.into()));
        Ok(files.collect())
    }
}
