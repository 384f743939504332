//! Base backups: a file index in parts, chunks in packs, and the manifest that makes them a backup.
//!
//! A file is cut into chunks of [`BackupOptions::chunk_bytes`] at multiples of that size, so that a
//! later incremental backup finds a chunk by its position. A chunk of nothing but zeros is only a
//! number in the index. Every other chunk is compressed on its own and appended to a pack.

mod entry;
mod index;
mod manifest;
mod pack;
mod part;
mod presence;
mod writer;

pub(crate) use entry::{Chunk, Content, Entry, StoredChunk};
pub use entry::{EntryKind, EntryPath, FileHeader};
pub use manifest::{CommitOutcome, IndexPart, Manifest, Pack, StoredBackup, Totals};
pub(crate) use pack::{HEADER_BYTES as PACK_HEADER_BYTES, check_header, decode_chunk};
pub(crate) use part::PartReader;
pub use writer::BackupWriter;

/// How a backup is written. The defaults keep a [`BackupWriter`] under about 120 MiB: three packs
/// (one is filled while two are uploaded), eight chunks of 1 MiB raw and as many compressed, an
/// index part, and what the compressors need.
#[derive(Clone, Debug)]
pub struct BackupOptions {
    /// Size of a chunk in bytes; a file's last one is shorter.
    pub chunk_bytes: usize,
    /// A pack is closed before it would grow beyond this many bytes.
    pub pack_bytes: usize,
    /// A part of the index is closed before it would grow beyond this many bytes, uncompressed.
    pub index_part_bytes: usize,
    /// zstd level of chunks. On real clusters level 1 stores no more than level 3, for less CPU.
    pub compression_level: i32,
    /// Chunks that are digested and compressed at once.
    pub compressors: usize,
    /// Packs that are uploaded at once.
    pub uploads: usize,
}

impl Default for BackupOptions {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        BackupOptions {
            chunk_bytes: 1 << 20,
            pack_bytes: 32 << 20,
            index_part_bytes: 4 << 20,
            compression_level: 1,
            compressors: processors.clamp(2, 8),
            uploads: 2,
        }
    }
}
