//! The home directory of an embedded stack, and what is where in it.

use std::io;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// `ZEKTOR_HOME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Home(PathBuf);

impl Home {
    /// `directory` is absolute.
    pub(crate) fn new(directory: PathBuf) -> Self {
        Home(directory)
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.0
    }

    pub(crate) fn master_key(&self) -> PathBuf {
        self.0.join("master.key")
    }

    pub(crate) fn repository(&self) -> PathBuf {
        self.0.join("repository")
    }

    pub(crate) fn catalog(&self) -> PathBuf {
        self.0.join("catalog.sqlite")
    }

    pub(crate) fn nats_store(&self) -> PathBuf {
        self.0.join("nats")
    }

    pub(crate) fn nats_config(&self) -> PathBuf {
        self.run().join("nats.conf")
    }

    /// The port of the NATS of this home; it stays from one start to the next.
    pub(crate) fn nats_port(&self) -> PathBuf {
        self.run().join("nats.port")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    pub(crate) fn log_of(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.run().join("stack.json")
    }

    /// Held locked by the supervisor, with its process id in it.
    pub(crate) fn lock(&self) -> PathBuf {
        self.run().join("lock")
    }

    /// What the supervisor is waiting for while it starts, one line.
    pub(crate) fn waiting(&self) -> PathBuf {
        self.run().join("waiting")
    }

    pub(crate) fn http_port_of(&self, name: &str) -> PathBuf {
        self.run().join(format!("{name}.http"))
    }

    pub(crate) fn pid_of(&self, name: &str) -> PathBuf {
        self.run().join(format!("{name}.pid"))
    }

    /// The repository of this home: what it was first started with. Archiving elsewhere from one start to the next
    /// would leave a gap in both places.
    pub(crate) fn settle_repository(
        &self,
        given: Option<&str>,
    ) -> Result<String, RepositoryChoice> {
        let chosen = self.repository_choice(given)?;
        let file = self.0.join("repository.url");
        if !file.exists() {
            write_private(&file, chosen.as_bytes())
                .map_err(|source| RepositoryChoice::Unrecorded { file, source })?;
        }
        Ok(chosen)
    }

    /// The same, without recording it.
    pub(crate) fn repository_choice(
        &self,
        given: Option<&str>,
    ) -> Result<String, RepositoryChoice> {
        let file = self.0.join("repository.url");
        let recorded = std::fs::read_to_string(&file)
            .ok()
            .map(|url| url.trim().to_owned());
        match (given, recorded) {
            (Some(now), Some(was)) if was != now => Err(RepositoryChoice::Another {
                was,
                now: now.to_owned(),
                file,
            }),
            (_, Some(was)) => Ok(was),
            (Some(now), None) => Ok(now.to_owned()),
            (None, None) => Ok(format!("file://{}", self.repository().display())),
        }
    }

    /// Makes the directories. The home itself may be entered by others, because branches run as another user
    /// when zektor runs as root; what is secret is in files and directories of its own.
    pub(crate) fn create(&self) -> io::Result<()> {
        std::fs::create_dir_all(&self.0)?;
        // The archiver makes its spool itself, for anybody to read; WAL is not for anybody.
        let spool = self.0.join("spool");
        for private in [self.run(), self.logs(), self.nats_store(), spool] {
            match std::fs::DirBuilder::new().mode(0o700).create(private) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.0.join("run")
    }
}

/// The repository that was asked for is not the one of this home.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RepositoryChoice {
    #[error(
        "this home archives into {was}; going on in {now} would leave a gap in both: use another --home, or \
         remove {file} if that is meant"
    )]
    Another {
        was: String,
        now: String,
        file: PathBuf,
    },
    #[error("{file} cannot be written")]
    Unrecorded {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Writes a file that only its owner can read, whole or not at all.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(beside, path)
}

#[cfg(test)]
mod tests {
    use super::Home;

    #[test]
    fn a_home_keeps_its_repository() {
        let place = tempfile::tempdir().unwrap();
        let home = Home::new(place.path().to_owned());
        let first = home.settle_repository(Some("s3://bucket/one")).unwrap();
        assert_eq!(first, "s3://bucket/one");
        assert_eq!(home.settle_repository(None).unwrap(), first);
        assert_eq!(
            home.settle_repository(Some("s3://bucket/one")).unwrap(),
            first
        );
        let refused = home.settle_repository(Some("s3://bucket/two")).unwrap_err();
        assert!(refused.to_string().contains("gap"), "{refused}");
    }
}
