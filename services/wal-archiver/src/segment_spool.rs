//! The open segment of a branch, in a file without a name: gone with the process, never in memory.
//!
//! It is not what makes WAL durable. Nothing is confirmed because it is here, and a restarted archiver
//! streams the segment again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use pg_format::{Lsn, SegmentName, WalSegmentSize};

use crate::error::ArchiveError;

/// A segment, from its beginning up to what has come of it.
#[derive(Clone, Debug)]
pub(crate) struct SegmentSpool {
    name: SegmentName,
    size: WalSegmentSize,
    directory: Arc<PathBuf>,
    file: Arc<File>,
    written: u64,
}

impl SegmentSpool {
    /// An empty spool for a segment.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub(crate) async fn create(
        directory: &Path,
        name: SegmentName,
        size: WalSegmentSize,
    ) -> Result<Self, ArchiveError> {
        let directory = Arc::new(directory.to_owned());
        let place = Arc::clone(&directory);
        let file = blocking(&directory, move || {
            std::fs::create_dir_all(place.as_path())?;
            tempfile::tempfile_in(place.as_path())
        })
        .await?;
        Ok(SegmentSpool {
            name,
            size,
            directory,
            file: Arc::new(file),
            written: 0,
        })
    }

    /// Adds bytes that follow what is there; no more than [`Self::missing`].
    ///
    /// # Errors
    /// The disk failed.
    pub(crate) async fn append(&mut self, bytes: Bytes) -> Result<(), ArchiveError> {
        let (file, offset, length) = (Arc::clone(&self.file), self.written, bytes.len() as u64);
        blocking(&self.directory, move || file.write_all_at(&bytes, offset)).await?;
        self.written += length;
        Ok(())
    }

    /// The first `length` bytes.
    ///
    /// # Errors
    /// The disk failed.
    pub(crate) async fn read(&self, length: u64) -> Result<Bytes, ArchiveError> {
        self.read_at(0, length).await
    }

    /// `length` bytes from `offset` on.
    ///
    /// # Errors
    /// The disk failed.
    pub(crate) async fn read_at(&self, offset: u64, length: u64) -> Result<Bytes, ArchiveError> {
        let file = Arc::clone(&self.file);
        blocking(&self.directory, move || {
            let length = usize::try_from(length.min(1 << 30)).unwrap_or(0);
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, offset)?;
            Ok(Bytes::from(bytes))
        })
        .await
    }

    /// The segment.
    #[must_use]
    pub(crate) fn name(&self) -> SegmentName {
        self.name
    }

    /// Bytes that have come.
    #[must_use]
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Bytes until the segment is complete.
    #[must_use]
    pub(crate) fn missing(&self) -> u64 {
        self.size.bytes() - self.written
    }

    /// The first byte that has not come.
    #[must_use]
    pub(crate) fn end(&self) -> Lsn {
        self.name.start(self.size).saturating_add(self.written)
    }
}

async fn blocking<T: Send + 'static>(
    directory: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, ArchiveError> {
    tokio::task::spawn_blocking(work)
        .await?
        .map_err(|source| ArchiveError::Spool {
            directory: directory.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg_format::TimelineId;

    #[tokio::test]
    async fn what_was_appended_is_read_and_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let size = WalSegmentSize::new(1 << 20).unwrap();
        let name = SegmentName::new(TimelineId(1), 7, size);
        let mut spool = SegmentSpool::create(directory.path(), name, size)
            .await
            .unwrap();
        spool.append(Bytes::from_static(b"abc")).await.unwrap();
        spool.append(Bytes::from_static(b"def")).await.unwrap();
        assert_eq!(spool.read(5).await.unwrap(), "abcde");
        assert_eq!(spool.read_at(2, 3).await.unwrap(), "cde");
        assert_eq!((spool.written(), spool.missing()), (6, (1 << 20) - 6));
        assert_eq!(spool.end(), Lsn((7 << 20) + 6));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
