//! The variable part of a WAL record: references to blocks, origin, and the main data.
//!
//! A body is a run of small headers, then the data they announce in the same order: for each block
//! its image and its data, at the end the main data (`DecodeXLogRecord` in `xlogreader.c`). The
//! headers are at most about 1 kB, whatever the length of the record.

use crate::Lsn;

const MAX_BLOCK_ID: u8 = 32;
const ID_TOPLEVEL_XID: u8 = 252;
const ID_ORIGIN: u8 = 253;
const ID_MAIN_DATA_LONG: u8 = 254;
const ID_MAIN_DATA_SHORT: u8 = 255;

const FORK_MASK: u8 = 0x0F;
const BLOCK_HAS_IMAGE: u8 = 0x10;
const BLOCK_HAS_DATA: u8 = 0x20;
const BLOCK_WILL_INIT: u8 = 0x40;
const BLOCK_SAME_RELATION: u8 = 0x80;

const IMAGE_HAS_HOLE: u8 = 0x01;

/// The headers of a record, walked and found sound.
#[derive(Clone, Copy, Debug)]
pub struct RecordBody<'a> {
    /// The replication origin the transaction came from.
    pub origin: Option<u16>,
    /// The top-level transaction, on the first record of a subtransaction.
    pub toplevel_xid: Option<u32>,
    /// What the resource manager wrote; cut when the record is longer than what is kept of it.
    pub main_data: &'a [u8],
    /// The whole length of the main data in bytes.
    pub main_data_length: u32,
    headers: &'a [u8],
    images: ImageFlags,
}

/// A file of a relation (`RelFileLocator`): tablespace, database and file number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RelationFile {
    /// Oid of the tablespace.
    pub tablespace: u32,
    /// Oid of the database; zero for shared relations.
    pub database: u32,
    /// The number in the file's name.
    pub number: u32,
}

/// A block that a record changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRef {
    /// The reference's own number in the record.
    pub id: u8,
    /// The relation's file.
    pub relation: RelationFile,
    /// 0 main, 1 free space map, 2 visibility map, 3 init.
    pub fork: u8,
    /// The block within the fork.
    pub block: u32,
    /// Replay makes the page anew.
    pub will_init: bool,
    /// The full-page image that comes with the reference.
    pub image: Option<BlockImage>,
    /// Bytes of the resource manager's data for this block.
    pub data_length: u16,
}

/// A full-page image in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockImage {
    /// Bytes in the record.
    pub length: u16,
    /// Where the hole of zeros that was left out begins.
    pub hole_offset: u16,
    /// The hole's length where it is stored: for compressed images.
    pub hole_length: Option<u16>,
    /// Compressed by one of the methods of the version.
    pub compressed: bool,
    /// Replay puts it back; otherwise it is there for consistency checks only.
    pub apply: bool,
}

/// The meaning of the image flags, which PostgreSQL 15 changed.
#[derive(Clone, Copy, Debug)]
struct ImageFlags {
    compressed: u8,
    apply: u8,
}

impl ImageFlags {
    fn of(server_major: u32) -> Self {
        if server_major <= 14 {
            ImageFlags {
                compressed: 0x02,
                apply: 0x04,
            }
        } else {
            // pglz, lz4, zstd
            ImageFlags {
                compressed: 0x04 | 0x08 | 0x10,
                apply: 0x02,
            }
        }
    }
}

impl<'a> RecordBody<'a> {
    /// Walks the headers at the beginning of `prefix`, the first bytes of a body of `length`
    /// bytes, and checks that they announce exactly the bytes that follow them.
    pub(super) fn parse(
        prefix: &'a [u8],
        length: u32,
        server_major: u32,
    ) -> Result<Self, RecordBodyError> {
        let mut walk = Walk {
            rest: prefix,
            relation: None,
            images: ImageFlags::of(server_major),
        };
        let mut body = RecordBody {
            origin: None,
            toplevel_xid: None,
            main_data: &[],
            main_data_length: 0,
            headers: &[],
            images: walk.images,
        };
        let mut announced: u64 = 0;
        let mut last_block = None;
        let taken = |walk: &Walk<'_>| prefix.len().saturating_sub(walk.rest.len());
        while u64::from(length).saturating_sub(taken(&walk) as u64) > announced {
            match walk.next()? {
                Part::MainData(bytes) => {
                    body.main_data_length = bytes;
                    announced += u64::from(bytes);
                    break;
                }
                Part::Origin(origin) => body.origin = Some(origin),
                Part::ToplevelXid(xid) => body.toplevel_xid = Some(xid),
                Part::Block(block) => {
                    if last_block >= Some(block.id) {
                        return Err(RecordBodyError::BlockOrder { id: block.id });
                    }
                    last_block = Some(block.id);
                    announced += block.payload_bytes();
                }
            }
        }
        let headers = taken(&walk);
        if headers as u64 + announced != u64::from(length) {
            return Err(RecordBodyError::Length {
                headers: headers as u64,
                announced,
                length,
            });
        }
        body.headers = prefix.get(..headers).unwrap_or_default();
        let main_start = u64::from(length - body.main_data_length);
        let main_start = usize::try_from(main_start).unwrap_or(usize::MAX);
        body.main_data = prefix.get(main_start..).unwrap_or_default();
        Ok(body)
    }

    /// The blocks the record refers to, in order.
    #[must_use]
    pub fn blocks(&self) -> BlockRefs<'a> {
        BlockRefs(Walk {
            rest: self.headers,
            relation: None,
            images: self.images,
        })
    }
}

/// Iterator over the blocks a record refers to.
#[derive(Clone, Debug)]
pub struct BlockRefs<'a>(Walk<'a>);

impl Iterator for BlockRefs<'_> {
    type Item = BlockRef;

    fn next(&mut self) -> Option<BlockRef> {
        while !self.0.rest.is_empty() {
            match self.0.next() {
                Ok(Part::Block(block)) => return Some(block),
                Ok(Part::Origin(_) | Part::ToplevelXid(_)) => {}
                Ok(Part::MainData(_)) | Err(_) => break,
            }
        }
        None
    }
}

impl BlockRef {
    /// Bytes that follow the headers for this block.
    fn payload_bytes(&self) -> u64 {
        u64::from(self.data_length) + self.image.map_or(0, |image| u64::from(image.length))
    }
}

/// One header of a body.
enum Part {
    Block(BlockRef),
    Origin(u16),
    ToplevelXid(u32),
    MainData(u32),
}

/// The headers not yet read, and the relation that "same relation" means.
#[derive(Clone, Debug)]
struct Walk<'a> {
    rest: &'a [u8],
    relation: Option<RelationFile>,
    images: ImageFlags,
}

impl Walk<'_> {
    fn next(&mut self) -> Result<Part, RecordBodyError> {
        match self.byte()? {
            ID_MAIN_DATA_SHORT => Ok(Part::MainData(u32::from(self.byte()?))),
            ID_MAIN_DATA_LONG => Ok(Part::MainData(self.word()?)),
            ID_ORIGIN => Ok(Part::Origin(self.half()?)),
            ID_TOPLEVEL_XID => Ok(Part::ToplevelXid(self.word()?)),
            id if id <= MAX_BLOCK_ID => Ok(Part::Block(self.block(id)?)),
            id => Err(RecordBodyError::UnknownId { id }),
        }
    }

    fn block(&mut self, id: u8) -> Result<BlockRef, RecordBodyError> {
        let flags = self.byte()?;
        let data_length = self.half()?;
        if (flags & BLOCK_HAS_DATA != 0) != (data_length > 0) {
            return Err(RecordBodyError::BlockData { id });
        }
        let image = if flags & BLOCK_HAS_IMAGE == 0 {
            None
        } else {
            Some(self.image()?)
        };
        if flags & BLOCK_SAME_RELATION == 0 {
            self.relation = Some(RelationFile {
                tablespace: self.word()?,
                database: self.word()?,
                number: self.word()?,
            });
        }
        Ok(BlockRef {
            id,
            relation: self.relation.ok_or(RecordBodyError::NoRelation { id })?,
            fork: flags & FORK_MASK,
            block: self.word()?,
            will_init: flags & BLOCK_WILL_INIT != 0,
            image,
            data_length,
        })
    }

    fn image(&mut self) -> Result<BlockImage, RecordBodyError> {
        let (length, hole_offset, flags) = (self.half()?, self.half()?, self.byte()?);
        let compressed = flags & self.images.compressed != 0;
        // An uncompressed image tells the hole by what is missing from a block.
        let stored = compressed && flags & IMAGE_HAS_HOLE != 0;
        let hole_length = if stored { Some(self.half()?) } else { None };
        let apply = flags & self.images.apply != 0;
        Ok(BlockImage {
            length,
            hole_offset,
            hole_length,
            compressed,
            apply,
        })
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], RecordBodyError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(RecordBodyError::Cut)?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn byte(&mut self) -> Result<u8, RecordBodyError> {
        self.take().map(|[byte]| byte)
    }

    fn half(&mut self) -> Result<u16, RecordBodyError> {
        self.take().map(u16::from_le_bytes)
    }

    fn word(&mut self) -> Result<u32, RecordBodyError> {
        self.take().map(u32::from_le_bytes)
    }
}

/// The position that an overwrite record says was lost: the first eight bytes of its main data.
pub(super) fn overwritten_lsn(main_data: &[u8]) -> Option<Lsn> {
    main_data
        .first_chunk()
        .map(|bytes| Lsn(u64::from_le_bytes(*bytes)))
}

/// The headers of a record contradict themselves or its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordBodyError {
    /// The record ends within its headers.
    #[error("the record ends within its headers")]
    Cut,
    /// A header that no version defines.
    #[error("the record has a part with the unknown id {id}")]
    UnknownId {
        /// The id.
        id: u8,
    },
    /// Block references must be in order.
    #[error("block reference {id} is out of order")]
    BlockOrder {
        /// The id of the reference.
        id: u8,
    },
    /// The flag says data, the length says none, or the other way round.
    #[error("block reference {id} contradicts itself on whether it has data")]
    BlockData {
        /// The id of the reference.
        id: u8,
    },
    /// "Same relation as before" on the first reference.
    #[error("block reference {id} names no relation")]
    NoRelation {
        /// The id of the reference.
        id: u8,
    },
    /// Headers and the data they announce do not add up to the record.
    #[error("{headers} bytes of headers announce {announced} bytes in a body of {length} bytes")]
    Length {
        /// Bytes of headers.
        headers: u64,
        /// Bytes they announce.
        announced: u64,
        /// Bytes there are.
        length: u32,
    },
    /// The end of a transaction without a time.
    #[error("the record ends a transaction but has no time")]
    NoTime,
    /// The main data is shorter than what it must hold.
    #[error("the record's main data ends before what it must hold")]
    MainDataCut,
    /// The main data is longer than what its version puts there.
    #[error("the record's main data has {bytes} bytes that nothing explains")]
    MainDataLeftOver {
        /// Bytes after the last known part.
        bytes: u64,
    },
    /// The record is so long that the needed part of it was not kept.
    #[error("the record is longer than what is kept of it")]
    MainDataNotKept,
    /// There cannot be less than none.
    #[error("the record counts {count} items")]
    Count {
        /// The count.
        count: i32,
    },
    /// A change of rows that names no page.
    #[error("the record changes a row but refers to no block")]
    NoBlock,
    /// The end of a transaction has parts that the version does not define.
    #[error("the record ends a transaction with the unknown flags {flags:#x}")]
    TransactionFlags {
        /// All flags.
        flags: u32,
    },
    /// A prepared transaction's state begins with another number.
    #[error("the record prepares a transaction but begins with {magic:#x}")]
    PrepareMagic {
        /// What it begins with.
        magic: u32,
    },
    /// No such WAL level.
    #[error("the record has the unknown wal level {level}")]
    WalLevel {
        /// The number.
        level: u32,
    },
    /// No such fork.
    #[error("the record has the impossible fork {number}")]
    Fork {
        /// The number.
        number: u32,
    },
}
