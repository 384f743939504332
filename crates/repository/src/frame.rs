//! The frame around every binary object but packs: WAL objects, index parts, manifests, the commit-time index.
//!
//! Little endian:
//!
//! ```text
//!  0  4  magic: ZKWL (WAL), ZKIX (index part), ZKMF (manifest), ZKCT (commit-time index) or ZKRM
//!        (relation map)
//!  4  1  version, 1
//!  5  1  compression: 1 is one zstd frame
//!  6  2  flags, 0 (kept for sealing)
//!  8  8  length of the raw bytes
//! 16 32  BLAKE3 of the raw bytes: what two objects are compared by
//! 48 32  BLAKE3 of bytes 0 to 47, the object's name and the payload: finds damage anywhere, and
//!        an object that rests under another's name
//! 80     payload
//! ```

use bytes::Bytes;

use crate::{Digest, RepositoryError, Result};

const VERSION: u8 = 1;
const ZSTD: u8 = 1;
const SEALED_BY: usize = 48;

/// Length of the header in bytes.
pub(crate) const HEADER_BYTES: usize = 80;

/// What is in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    Wal,
    Index,
    Manifest,
    WalIndex,
    RelationMap,
}

impl FrameKind {
    fn magic(self) -> &'static [u8; 4] {
        match self {
            FrameKind::Wal => b"ZKWL",
            FrameKind::Index => b"ZKIX",
            FrameKind::Manifest => b"ZKMF",
            FrameKind::WalIndex => b"ZKCT",
            FrameKind::RelationMap => b"ZKRM",
        }
    }

    pub(crate) fn text(self) -> &'static str {
        match self {
            FrameKind::Wal => "WAL object",
            FrameKind::Index => "index part",
            FrameKind::Manifest => "manifest",
            FrameKind::WalIndex => "commit-time index",
            FrameKind::RelationMap => "relation map",
        }
    }
}

/// What the header says of the raw bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) raw_bytes: u64,
    pub(crate) raw_digest: Digest,
}

/// Compresses `raw` into a frame. `name` is the last part of the object's key.
pub(crate) fn encode(kind: FrameKind, name: &str, raw: &[u8], level: i32) -> Result<Bytes> {
    let payload = zstd::bulk::compress(raw, level)
        .map_err(|error| RepositoryError::refused(format!("cannot compress {name}: {error}")))?;
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame.extend_from_slice(kind.magic());
    frame.extend_from_slice(&[VERSION, ZSTD, 0, 0]);
    frame.extend_from_slice(&(raw.len() as u64).to_le_bytes());
    frame.extend_from_slice(Digest::of(raw).as_bytes());
    let seal = seal(&frame, name, &payload);
    frame.extend_from_slice(seal.as_bytes());
    frame.extend_from_slice(&payload);
    Ok(frame.into())
}

/// Checks everything and gives back the raw bytes. `key` is for the error.
pub(crate) fn decode(kind: FrameKind, key: &str, frame: &[u8]) -> Result<Bytes> {
    let header = decode_header(kind, key, frame)?;
    let payload = &frame[HEADER_BYTES..];
    let name = key.rsplit('/').next().unwrap_or(key);
    if seal(&frame[..SEALED_BY], name, payload).as_bytes() != &frame[SEALED_BY..HEADER_BYTES] {
        return Err(RepositoryError::corrupt(key, "its digest does not match"));
    }
    let capacity = usize::try_from(header.raw_bytes)
        .map_err(|_| RepositoryError::corrupt(key, "its length is impossible"))?;
    let raw = zstd::bulk::decompress(payload, capacity)
        .map_err(|error| RepositoryError::corrupt(key, format!("cannot decompress: {error}")))?;
    if raw.len() != capacity || Digest::of(&raw) != header.raw_digest {
        return Err(RepositoryError::corrupt(
            key,
            "its content's digest does not match",
        ));
    }
    Ok(raw.into())
}

/// Reads the header alone; its claims are only proven by [`decode`].
pub(crate) fn decode_header(kind: FrameKind, key: &str, frame: &[u8]) -> Result<Header> {
    let corrupt = |reason: &str| RepositoryError::corrupt(key, reason);
    let header = frame
        .first_chunk::<HEADER_BYTES>()
        .ok_or_else(|| corrupt("it is too short"))?;
    if &header[..4] != kind.magic() {
        return Err(corrupt(&format!("it is not a {}", kind.text())));
    }
    if header[4] > VERSION {
        let format = kind.text().to_owned();
        return Err(RepositoryError::Newer {
            key: key.into(),
            format,
            version: header[4].into(),
        });
    }
    if header[4..8] != [VERSION, ZSTD, 0, 0] {
        return Err(corrupt("its header is not one that was ever written"));
    }
    let mut raw_bytes = [0; 8];
    raw_bytes.copy_from_slice(&header[8..16]);
    let mut raw_digest = [0; 32];
    raw_digest.copy_from_slice(&header[16..48]);
    Ok(Header {
        raw_bytes: u64::from_le_bytes(raw_bytes),
        raw_digest: Digest::from_bytes(raw_digest),
    })
}

fn seal(header: &[u8], name: &str, payload: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    let _ = hasher
        .update(header)
        .update(name.as_bytes())
        .update(payload);
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::{FrameKind, decode, encode};
    use crate::ErrorClass;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let raw = b"some bytes of wal, some bytes of wal, some bytes of wal".repeat(9);
        let frame = encode(FrameKind::Wal, "name", &raw, 3).unwrap();
        assert_eq!(decode(FrameKind::Wal, "dir/name", &frame).unwrap(), raw);
        for bit in 0..frame.len() * 8 {
            let mut damaged = frame.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(
                decode(FrameKind::Wal, "dir/name", &damaged).is_err(),
                "bit {bit}"
            );
        }
        for length in 0..frame.len() {
            assert!(
                decode(FrameKind::Wal, "name", &frame[..length]).is_err(),
                "length {length}"
            );
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>, raw_bytes: u64) {
            let _ = decode(FrameKind::Wal, "name", &bytes);
            let mut frame = encode(FrameKind::Wal, "name", &bytes, 3).unwrap().to_vec();
            frame[8..16].copy_from_slice(&raw_bytes.to_le_bytes());
            let _ = decode(FrameKind::Wal, "name", &frame);
        }
    }

    #[test]
    fn an_object_under_the_wrong_name_is_noticed() {
        let frame = encode(FrameKind::Wal, "a", b"raw", 3).unwrap();
        let class = |key: &str, kind| decode(kind, key, &frame).unwrap_err().class();
        assert_eq!(class("b", FrameKind::Wal), ErrorClass::Corrupt);
        assert_eq!(class("a", FrameKind::Index), ErrorClass::Corrupt);
    }

    #[test]
    fn a_newer_version_is_refused_by_name() {
        let mut frame = encode(FrameKind::Manifest, "a", b"raw", 3)
            .unwrap()
            .to_vec();
        frame[4] = 2;
        let error = decode(FrameKind::Manifest, "a", &frame).unwrap_err();
        assert!(
            error.to_string().contains("made by a newer Zektor"),
            "{error}"
        );
    }
}
