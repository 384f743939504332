//! Checksums of files in a manifest, and computing them while a file streams by.

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

/// How the files of a backup are checksummed (`MANIFEST_CHECKSUMS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChecksumAlgorithm {
    /// The default.
    Crc32c,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// The checksum of one file, of the length its algorithm has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChecksum {
    algorithm: ChecksumAlgorithm,
    value: Box<[u8]>,
}

impl ChecksumAlgorithm {
    /// Reads the name, `CRC32C` or `SHA256`, in any case as the server does.
    fn parse(name: &str) -> Option<Self> {
        const NAMES: [(&str, ChecksumAlgorithm); 5] = [
            ("CRC32C", ChecksumAlgorithm::Crc32c),
            ("SHA224", ChecksumAlgorithm::Sha224),
            ("SHA256", ChecksumAlgorithm::Sha256),
            ("SHA384", ChecksumAlgorithm::Sha384),
            ("SHA512", ChecksumAlgorithm::Sha512),
        ];
        let found = NAMES
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, algorithm)| *algorithm)
    }

    /// Bytes in a checksum.
    fn bytes(self) -> usize {
        match self {
            ChecksumAlgorithm::Crc32c => 4,
            ChecksumAlgorithm::Sha224 => 28,
            ChecksumAlgorithm::Sha256 => 32,
            ChecksumAlgorithm::Sha384 => 48,
            ChecksumAlgorithm::Sha512 => 64,
        }
    }

    /// Begins the checksum of a file.
    #[must_use]
    pub fn hasher(self) -> FileHasher {
        FileHasher(match self {
            ChecksumAlgorithm::Crc32c => State::Crc32c(0),
            ChecksumAlgorithm::Sha224 => State::Sha224(Sha224::new()),
            ChecksumAlgorithm::Sha256 => State::Sha256(Sha256::new()),
            ChecksumAlgorithm::Sha384 => State::Sha384(Sha384::new()),
            ChecksumAlgorithm::Sha512 => State::Sha512(Sha512::new()),
        })
    }
}

impl FileChecksum {
    pub(super) fn parse(algorithm: &str, hexadecimal: &str) -> Option<Self> {
        let algorithm = ChecksumAlgorithm::parse(algorithm)?;
        let value = decode_hexadecimal(hexadecimal)?;
        (value.len() == algorithm.bytes()).then(|| FileChecksum {
            algorithm,
            value: value.into_boxed_slice(),
        })
    }

    /// How it was computed.
    #[must_use]
    pub fn algorithm(&self) -> ChecksumAlgorithm {
        self.algorithm
    }

    /// Its bytes. A CRC is in the server's byte order, which is little-endian.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.value
    }
}

/// The checksum of a file of which not all bytes have passed.
#[derive(Clone, Debug)]
pub struct FileHasher(State);

#[derive(Clone, Debug)]
enum State {
    Crc32c(u32),
    Sha224(Sha224),
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl FileHasher {
    /// Adds the next bytes of the file.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Crc32c(crc) => *crc = crc32c::crc32c_append(*crc, bytes),
            State::Sha224(hasher) => hasher.update(bytes),
            State::Sha256(hasher) => hasher.update(bytes),
            State::Sha384(hasher) => hasher.update(bytes),
            State::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The checksum of all bytes, to be compared with the manifest's.
    #[must_use]
    pub fn finish(self) -> FileChecksum {
        let (algorithm, value) = match self.0 {
            State::Crc32c(crc) => (ChecksumAlgorithm::Crc32c, Box::from(crc.to_le_bytes())),
            State::Sha224(hasher) => (ChecksumAlgorithm::Sha224, boxed(hasher)),
            State::Sha256(hasher) => (ChecksumAlgorithm::Sha256, boxed(hasher)),
            State::Sha384(hasher) => (ChecksumAlgorithm::Sha384, boxed(hasher)),
            State::Sha512(hasher) => (ChecksumAlgorithm::Sha512, boxed(hasher)),
        };
        FileChecksum { algorithm, value }
    }
}

fn boxed(hasher: impl Digest) -> Box<[u8]> {
    Box::from(&hasher.finalize()[..])
}

/// Two digits for each byte; `None` if the text is anything else.
pub(super) fn decode_hexadecimal(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    if rest.is_empty() {
        pairs.iter().map(byte).collect()
    } else {
        None
    }
}
