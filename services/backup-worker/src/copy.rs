//! Copies a running base backup into the repository, with bounded memory.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use events::event::DamagedPage;
use pg_replication::{BackupEnd, BackupMessage, BackupStart, BaseBackupStream, ServerMessage};
use repository::{BackupWriter, EntryKind, EntryPath, FileHeader};

use crate::damage::{damaged_page, unnamed_damage};
use crate::failure::AttemptError;
use crate::rate::Rates;
use crate::tar_entries::{Entry, Kind, Piece, TarEntries};
use crate::voice::Voice;

/// More damaged pages are counted by the server only; the list is for people.
const MAX_DAMAGED_PAGES: usize = 1000;
/// The server's manifest of a million files is about 200 MiB; more is refused.
const MAX_MANIFEST_BYTES: usize = 512 << 20;
/// The server sends something all the time while it copies; a checkpoint may take longer, and comes before.
const STALLED_AFTER: Duration = Duration::from_secs(300);

/// A limit that is so low that one message takes longer is passed over.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// What came of the copy.
#[derive(Debug)]
pub(crate) struct Copied {
    pub(crate) end: BackupEnd,
    pub(crate) damaged_pages: Vec<DamagedPage>,
}

/// Which archive is arriving.
enum Arriving {
    Nothing,
    Archive {
        tablespace: Option<u32>,
        entries: TarEntries,
        skipping: bool,
    },
    Manifest(BytesMut),
}

/// The copy of one attempt.
pub(crate) struct Copy<'a, 'w> {
    writer: &'a mut BackupWriter,
    voice: &'a mut Voice<'w>,
    rates: &'a Rates,
    packed_bytes: u64,
    total_bytes: u64,
    arriving: Arriving,
    damaged_pages: Vec<DamagedPage>,
}

impl<'a, 'w> Copy<'a, 'w> {
    pub(crate) fn new(
        writer: &'a mut BackupWriter,
        voice: &'a mut Voice<'w>,
        rates: &'a Rates,
        total_bytes: u64,
    ) -> Self {
        let arriving = Arriving::Nothing;
        Copy {
            writer,
            voice,
            rates,
            packed_bytes: 0,
            total_bytes,
            arriving,
            damaged_pages: Vec::new(),
        }
    }

    /// Copies until the server's end message.
    pub(crate) async fn run(
        mut self,
        backup: &mut BaseBackupStream,
    ) -> Result<Copied, AttemptError> {
        self.link_tablespaces(backup.start()).await?;
        loop {
            let message = tokio::time::timeout(STALLED_AFTER, backup.next())
                .await
                .map_err(|_| AttemptError::Stalled {
                    after: STALLED_AFTER,
                })??;
            match message {
                BackupMessage::Archive { name, .. } => self.begin_archive(&name).await?,
                BackupMessage::Manifest => {
                    self.end_archive().await?;
                    self.arriving = Arriving::Manifest(BytesMut::new());
                }
                BackupMessage::Data(bytes) => {
                    let read = bytes.len() as u64;
                    self.accept(bytes).await?;
                    self.keep_to_the_rates(read).await?;
                }
                BackupMessage::Progress(_) => {}
                BackupMessage::Warning(warning) => self.note(&warning),
                BackupMessage::End(end) => {
                    self.end_archive().await?;
                    if let Some(damage) = &end.damage
                        && self.damaged_pages.is_empty()
                    {
                        self.damaged_pages.push(unnamed_damage(damage));
                    }
                    return Ok(Copied {
                        end,
                        damaged_pages: self.damaged_pages,
                    });
                }
            }
        }
    }

    /// Slows down by not reading on: the server waits, holding nothing but its connection.
    async fn keep_to_the_rates(&mut self, read: u64) -> Result<(), AttemptError> {
        let packed = self.writer.packed_bytes();
        let stored = packed - self.packed_bytes;
        self.packed_bytes = packed;
        let rates = self.rates;
        let waited = async {
            rates.read(read).await;
            rates.store(stored).await;
        };
        let _ = self.voice.beating(LONGEST_PAUSE, waited).await?;
        Ok(())
    }

    async fn link_tablespaces(&mut self, start: &BackupStart) -> Result<(), AttemptError> {
        for tablespace in &start.tablespaces {
            let (Some(oid), Some(location)) = (tablespace.oid, &tablespace.location) else {
                continue;
            };
            let header = FileHeader {
                path: EntryPath::data(format!("pg_tblspc/{oid}")),
                kind: EntryKind::Symlink {
                    target: location.clone(),
                },
                mode: 0o777,
                size: 0,
                modified_unix_secs: 0,
            };
            self.writer.begin_file(header).await?;
        }
        Ok(())
    }

    async fn begin_archive(&mut self, name: &str) -> Result<(), AttemptError> {
        self.end_archive().await?;
        let stem = name.strip_suffix(".tar").unwrap_or(name);
        let tablespace = match stem {
            "base" => None,
            oid => Some(
                oid.parse()
                    .map_err(|_| AttemptError::UnknownArchive(name.to_owned()))?,
            ),
        };
        self.arriving = Arriving::Archive {
            tablespace,
            entries: TarEntries::new(),
            skipping: false,
        };
        Ok(())
    }

    async fn end_archive(&mut self) -> Result<(), AttemptError> {
        match std::mem::replace(&mut self.arriving, Arriving::Nothing) {
            Arriving::Nothing => Ok(()),
            Arriving::Archive { entries, .. } => Ok(entries.finish()?),
            Arriving::Manifest(manifest) => self.store_manifest(manifest.freeze()).await,
        }
    }

    async fn accept(&mut self, mut bytes: Bytes) -> Result<(), AttemptError> {
        let mut arriving = std::mem::replace(&mut self.arriving, Arriving::Nothing);
        match &mut arriving {
            Arriving::Nothing => return Err(AttemptError::UnknownArchive("no archive".to_owned())),
            Arriving::Manifest(manifest) => {
                if manifest.len() + bytes.len() > MAX_MANIFEST_BYTES {
                    return Err(AttemptError::ManifestTooLarge {
                        limit: MAX_MANIFEST_BYTES,
                    });
                }
                manifest.extend_from_slice(&bytes);
            }
            Arriving::Archive {
                tablespace,
                entries,
                skipping,
            } => {
                while let Some(piece) = entries.next(&mut bytes)? {
                    match piece {
                        Piece::Entry(entry) => {
                            *skipping = is_left_out(*tablespace, &entry);
                            if !*skipping {
                                self.writer.begin_file(header(*tablespace, &entry)).await?;
                            }
                            *skipping |= entry.kind != Kind::File;
                        }
                        Piece::Content(content) if !*skipping => {
                            self.writer.write(content).await?;
                        }
                        Piece::End if !*skipping => self.writer.end_file().await?,
                        Piece::Content(_) | Piece::End => {}
                    }
                }
                self.voice
                    .copied(self.writer.logical_bytes(), self.total_bytes)
                    .await?;
            }
        }
        self.arriving = arriving;
        Ok(())
    }

    /// The server's own manifest is a file of the copy, so that `pg_verifybackup` can check a restored one.
    async fn store_manifest(&mut self, manifest: Bytes) -> Result<(), AttemptError> {
        let header = FileHeader {
            path: EntryPath::data("backup_manifest"),
            kind: EntryKind::File,
            mode: 0o600,
            size: manifest.len() as u64,
            modified_unix_secs: 0,
        };
        self.writer.begin_file(header).await?;
        self.writer.write(manifest).await?;
        Ok(self.writer.end_file().await?)
    }

    fn note(&mut self, warning: &ServerMessage) {
        tracing::warn!(
            message = warning.message,
            "the server warns during the base backup"
        );
        if let Some(page) = damaged_page(&warning.message)
            && self.damaged_pages.len() < MAX_DAMAGED_PAGES
        {
            self.damaged_pages.push(page);
        }
    }
}

/// `tablespace_map` is kept, byte for byte, though a restore does not use it: `pg_verifybackup` asks for it.
fn is_left_out(tablespace: Option<u32>, entry: &Entry) -> bool {
    let root = entry.path.is_empty() || entry.path == ".";
    let linked = matches!(entry.kind, Kind::Symlink(_));
    root || (tablespace.is_none() && linked)
}

fn header(tablespace: Option<u32>, entry: &Entry) -> FileHeader {
    let path = EntryPath {
        tablespace,
        path: entry.path.clone(),
    };
    let kind = match &entry.kind {
        Kind::File => EntryKind::File,
        Kind::Directory => EntryKind::Directory,
        Kind::Symlink(target) => EntryKind::Symlink {
            target: target.clone(),
        },
    };
    FileHeader {
        path,
        kind,
        mode: entry.mode & 0o7777,
        size: entry.size_bytes,
        modified_unix_secs: entry.modified_secs,
    }
}
