//! The name of a compute directory.
//!
//! Files and servers of a branch are in one place only; orders about it must find the restorers of that place. The
//! name rests in the place itself, so it is the same for all who work there and stays with the files.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use rand::Rng as _;

use super::ComputeError;

const FILE: &str = ".holder";
const LONGEST_HOST: usize = 40;

/// The name of `directory`, which is made once: the machine's name, for people, and eight random digits. It is a
/// token of a subject.
pub(super) fn name(directory: &Path) -> Result<String, ComputeError> {
    let path = directory.join(FILE);
    let failed = |source| ComputeError::file("write", &path)(source);
    loop {
        match fs::read_to_string(&path) {
            Ok(name) if is_token(name.trim()) => return Ok(name.trim().to_owned()),
            Ok(_) => {
                let damaged = std::io::Error::new(ErrorKind::InvalidData, "it holds no name");
                return Err(ComputeError::file("read", &path)(damaged));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(ComputeError::file("read", &path)(error)),
        }
        // Whole or not at all, and the first one counts: a link is not made over another.
        let random = format!("{:08x}", rand::rng().random::<u32>());
        let temporary = directory.join(format!("{FILE}.{random}"));
        let written = fs::File::create_new(&temporary).and_then(|mut file| {
            file.write_all(format!("{}-{}\n", host(), random).as_bytes())?;
            file.sync_all()
        });
        let linked = written.and_then(|()| match fs::hard_link(&temporary, &path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        });
        let removed = fs::remove_file(&temporary);
        linked.and(removed).map_err(failed)?;
    }
}

fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let plain = name.trim().chars().map(|c| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    });
    let plain: String = plain.take(LONGEST_HOST).collect();
    if plain.is_empty() {
        "compute".to_owned()
    } else {
        plain
    }
}

fn is_token(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

#[cfg(test)]
mod tests {
    use super::{FILE, is_token, name};

    #[test]
    fn a_place_keeps_its_name_and_shares_it_with_none() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let names: Vec<String> = std::thread::scope(|scope| {
            let asked: Vec<_> = (0..8).map(|_| scope.spawn(|| name(one.path()))).collect();
            asked
                .into_iter()
                .map(|asked| asked.join().unwrap().unwrap())
                .collect()
        });
        assert!(names.iter().all(|each| *each == names[0]), "{names:?}");
        assert!(is_token(&names[0]), "{}", names[0]);
        assert_ne!(name(two.path()).unwrap(), names[0]);
        assert_eq!(std::fs::read_dir(one.path()).unwrap().count(), 1);
        std::fs::write(two.path().join(FILE), "a.b>").unwrap();
        assert!(name(two.path()).is_err());
    }
}
