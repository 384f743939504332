//! Secrets as they rest: sealed with the installation's master key.
//!
//! ChaCha20-Poly1305 with a random nonce. What a secret is for is authenticated with it, so that a sealed
//! value moved to another place does not open there. The form, in base64:
//!
//! ```text
//! version 1 (1 byte) | key id (4) | nonce (12) | ciphertext and tag
//! ```
//!
//! The key id is a digest of the key: it tells "the wrong key" from "damaged".

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use events::{BranchName, InstanceName, SealedSecret};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::zeroize::Zeroizing;

pub use secrecy::{ExposeSecret, SecretString};

const VERSION: u8 = 1;
const KEY_BYTES: usize = 32;
const KEY_ID_BYTES: usize = 4;
const HEADER_BYTES: usize = 1 + KEY_ID_BYTES + NONCE_LEN;
/// A key file is a line of text; anything longer is not one.
const LONGEST_KEY_FILE: u64 = 4096;

/// What [`MasterKey::seal`] and [`MasterKey::open`] are given for a branch's connection URI.
#[must_use]
pub fn dsn_context<'a>(instance: &'a InstanceName, branch: &'a BranchName) -> [&'a str; 3] {
    ["dsn", instance.as_str(), branch.as_str()]
}

/// Why a key could not be had, or a secret not sealed or opened. Never holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key file cannot be read or written.
    #[error("the master key file {path} cannot be {action}; see ZEKTOR_MASTER_KEY_FILE")]
    File {
        /// The file.
        path: PathBuf,
        /// Read or written.
        action: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Others may read the key.
    #[error(
        "the master key file {path} can be read by others (mode {mode:03o}); run: chmod 600 {path}"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file does not hold a key.
    #[error("the master key file {path} is not a key; it holds 32 bytes in base64 or hexadecimal")]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// It was sealed with another key.
    #[error(
        "the secret was sealed with another master key ({sealed_with}, this one is {key_id}); \
         check ZEKTOR_MASTER_KEY_FILE"
    )]
    WrongKey {
        /// Id of the key it was sealed with.
        sealed_with: String,
        /// Id of this key.
        key_id: String,
    },
    /// The value is damaged, or it was sealed for something else.
    #[error("the sealed secret is damaged, or was sealed for something other than {context}")]
    Damaged {
        /// What it was to be opened for.
        context: String,
    },
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Random,
}

/// The key that every secret of an installation is sealed with.
pub struct MasterKey {
    key: LessSafeKey,
    id: [u8; KEY_ID_BYTES],
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MasterKey")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

impl MasterKey {
    /// Reads the key from a text file of 32 bytes in base64 or hexadecimal.
    ///
    /// # Errors
    /// If it cannot be read, holds no key, or may be read by others than its owner.
    pub fn load(path: &Path) -> Result<Self, SealError> {
        let unreadable = |source| SealError::File {
            path: path.to_owned(),
            action: "read",
            source,
        };
        let file = File::open(path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let path = path.to_owned();
            return Err(SealError::Exposed { path, mode });
        }
        let mut text = Zeroizing::new(String::new());
        let _ = file
            .take(LONGEST_KEY_FILE)
            .read_to_string(&mut text)
            .map_err(unreadable)?;
        parse_key(text.trim())
            .map(|bytes| MasterKey::from_bytes(&bytes))
            .ok_or_else(|| SealError::NotAKey {
                path: path.to_owned(),
            })
    }

    /// Draws a key and writes it to a new file that only its owner may read.
    ///
    /// # Errors
    /// If the file exists or cannot be written.
    pub fn generate_file(path: &Path) -> Result<Self, SealError> {
        let unwritable = |source| SealError::File {
            path: path.to_owned(),
            action: "written",
            source,
        };
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        SystemRandom::new()
            .fill(bytes.as_mut())
            .map_err(|_| SealError::Random)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(unwritable)?;
        let text = Zeroizing::new(format!("{}\n", STANDARD.encode(bytes.as_ref())));
        file.write_all(text.as_bytes()).map_err(unwritable)?;
        file.sync_all().map_err(unwritable)?;
        Ok(MasterKey::from_bytes(&bytes))
    }

    /// The key of these bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
        digest.update(b"zektor/v1/key-id");
        digest.update(bytes);
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&digest.finish().as_ref()[..KEY_ID_BYTES]);
        let key = UnboundKey::new(&CHACHA20_POLY1305, bytes)
            .unwrap_or_else(|_| unreachable!("the key has the algorithm's length"));
        MasterKey {
            key: LessSafeKey::new(key),
            id,
        }
    }

    /// The key's public id, in hexadecimal.
    #[must_use]
    pub fn id(&self) -> String {
        hexadecimal(&self.id)
    }

    /// Seals `plaintext` for `context`, whose parts hold no `/`.
    ///
    /// # Errors
    /// Only if the system gives no random bytes.
    pub fn seal(&self, plaintext: &str, context: &[&str]) -> Result<SealedSecret, SealError> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| SealError::Random)?;
        let mut body = plaintext.as_bytes().to_vec();
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(authenticated(context)),
                &mut body,
            )
            .map_err(|_| SealError::Random)?;
        let mut sealed = Vec::with_capacity(HEADER_BYTES + body.len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&self.id);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&body);
        Ok(SealedSecret::from_base64(STANDARD.encode(sealed)))
    }

    /// Opens what was sealed for the same `context`.
    ///
    /// # Errors
    /// [`SealError::WrongKey`] or [`SealError::Damaged`].
    pub fn open(&self, sealed: &SealedSecret, context: &[&str]) -> Result<SecretString, SealError> {
        let damaged = || SealError::Damaged {
            context: context.join("/"),
        };
        let bytes = STANDARD.decode(sealed.as_base64()).map_err(|_| damaged())?;
        let (header, body) = bytes.split_at_checked(HEADER_BYTES).ok_or_else(damaged)?;
        if header[0] != VERSION {
            return Err(damaged());
        }
        let (key_id, nonce) = header[1..].split_at(KEY_ID_BYTES);
        if key_id != self.id {
            return Err(SealError::WrongKey {
                sealed_with: hexadecimal(key_id),
                key_id: self.id(),
            });
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| damaged())?;
        let mut body = Zeroizing::new(body.to_vec());
        let plaintext = self
            .key
            .open_in_place(nonce, Aad::from(authenticated(context)), &mut body)
            .map_err(|_| damaged())?;
        let text = std::str::from_utf8(plaintext).map_err(|_| damaged())?;
        Ok(SecretString::from(text))
    }
}

fn authenticated(context: &[&str]) -> Vec<u8> {
    format!("zektor/v1/{}", context.join("/")).into_bytes()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_key(text: &str) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let bytes = Zeroizing::new(if text.len() == 2 * KEY_BYTES {
        let digits = text.as_bytes().chunks(2);
        let bytes: Option<Vec<u8>> = digits
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect();
        bytes?
    } else {
        STANDARD.decode(text).ok()?
    });
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    if bytes.len() != KEY_BYTES {
        return None;
    }
    key.copy_from_slice(&bytes);
    Some(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const DSN: &str = "postgres://zektor:geheim@db.example/orders";

    fn key(byte: u8) -> MasterKey {
        MasterKey::from_bytes(&[byte; KEY_BYTES])
    }

    #[test]
    fn opens_only_with_its_key_for_its_context_and_whole() {
        let context = ["dsn", "orders", "main"];
        let sealed = key(1).seal(DSN, &context).unwrap();
        assert_eq!(key(1).open(&sealed, &context).unwrap().expose_secret(), DSN);
        assert!(!sealed.as_base64().contains("geheim"));

        let wrong_key = key(2).open(&sealed, &context).unwrap_err();
        assert!(
            matches!(wrong_key, SealError::WrongKey { .. }),
            "{wrong_key}"
        );
        let moved = key(1).open(&sealed, &["dsn", "orders", "other"]);
        assert!(matches!(moved, Err(SealError::Damaged { .. })));

        let bytes = STANDARD.decode(sealed.as_base64()).unwrap();
        for index in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[index] ^= 1;
            let damaged = SealedSecret::from_base64(STANDARD.encode(damaged));
            assert!(key(1).open(&damaged, &context).is_err(), "byte {index}");
        }
        for length in 0..bytes.len() {
            let cut = SealedSecret::from_base64(STANDARD.encode(&bytes[..length]));
            assert!(key(1).open(&cut, &context).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn the_same_secret_is_never_sealed_to_the_same_text() {
        let seal = || key(1).seal(DSN, &["a"]).unwrap();
        assert_ne!(seal(), seal());
    }

    #[test]
    fn a_generated_file_is_private_and_loads() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("master.key");
        let made = MasterKey::generate_file(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(MasterKey::load(&path).unwrap().id(), made.id());
        assert!(
            MasterKey::generate_file(&path).is_err(),
            "never overwritten"
        );
    }

    #[test]
    fn a_readable_or_malformed_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("master.key");
        let write = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        };
        write(&"ab".repeat(32), 0o640);
        let error = MasterKey::load(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
        write(&"ab".repeat(32), 0o600);
        let loaded = MasterKey::load(&path).unwrap();
        assert_eq!(loaded.id(), key(0xab).id());
        for text in ["", "short", &"zz".repeat(32), &"ab".repeat(31)] {
            write(text, 0o600);
            let error = MasterKey::load(&path).unwrap_err();
            assert!(matches!(error, SealError::NotAKey { .. }), "{text:?}");
        }
    }
}
