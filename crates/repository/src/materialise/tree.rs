//! The directories that are restored into. Everything here blocks.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Target;
use crate::backup::{Content, Entry, EntryPath};
use crate::{RepositoryError, Result};

pub(super) struct Tree {
    target: Target,
}

impl Tree {
    pub(super) fn new(target: Target) -> Self {
        Tree { target }
    }

    fn roots(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.target.data_directory]
            .into_iter()
            .chain(self.target.tablespaces.values())
            .chain(self.target.other_tablespaces.as_ref())
    }

    /// Makes the target's directories, accessible to their owner alone; refuses what is not empty.
    pub(super) fn prepare_roots(&self) -> Result<()> {
        for root in self.roots() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(root)
                .map_err(failed("create", root))?;
            if fs::read_dir(root)
                .map_err(failed("read", root))?
                .next()
                .is_some()
            {
                return Err(RepositoryError::refused(format!(
                    "{} is not empty; a backup is restored into empty directories only",
                    root.display()
                )));
            }
            fs::set_permissions(root, Permissions::from_mode(0o700))
                .map_err(failed("set the mode of", root))?;
            self.own(root)?;
        }
        Ok(())
    }

    /// Makes directories and links, and files of the right size and without content.
    pub(super) fn create(&self, entries: &[Entry]) -> Result<()> {
        for entry in entries {
            let path = self.resolve(&entry.path)?;
            match &entry.content {
                Content::Directory => self.create_directory(&path)?,
                Content::Symlink { .. } => {
                    let directory = self.linked(&entry.path)?;
                    self.create_parent(&path)?;
                    std::os::unix::fs::symlink(directory, &path).map_err(failed("link", &path))?;
                    self.own(&path)?;
                }
                Content::File {
                    size, offset: 0, ..
                } => {
                    self.create_parent(&path)?;
                    // Two entries of one name would overwrite each other: `create_new` finds them.
                    let mut options = OpenOptions::new();
                    let options = options.write(true).create_new(true).mode(0o600);
                    let file = options.open(&path).map_err(failed("create", &path))?;
                    file.set_len(*size).map_err(failed("extend", &path))?;
                    self.own(&path)?;
                }
                Content::File { .. } => {}
            }
        }
        Ok(())
    }

    pub(super) fn open(&self, entry: &Entry) -> Result<File> {
        let path = self.resolve(&entry.path)?;
        OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(failed("open", &path))
    }

    pub(super) fn write_at(&self, file: &File, entry: &Entry, raw: &[u8], at: u64) -> Result<()> {
        let written = file.write_all_at(raw, at);
        written.or_else(|source| Err(failed("write", &self.resolve(&entry.path)?)(source)))
    }

    /// Sets the entries' modes and proves that each is what and how large it shall be.
    pub(super) fn finish(&self, entries: &[Entry]) -> Result<()> {
        for entry in entries {
            let path = self.resolve(&entry.path)?;
            let is_link = matches!(entry.content, Content::Symlink { .. });
            if !is_link {
                let mode = Permissions::from_mode(entry.mode);
                fs::set_permissions(&path, mode).map_err(failed("set the mode of", &path))?;
            }
            let found = fs::symlink_metadata(&path).map_err(failed("read", &path))?;
            let right = match &entry.content {
                Content::Directory => found.is_dir(),
                Content::Symlink { .. } => found.is_symlink(),
                Content::File { size, .. } => found.is_file() && found.len() == *size,
            };
            if !right || (!is_link && found.permissions().mode() & 0o7777 != entry.mode) {
                let source = io::Error::other("it changed while it was being restored");
                return Err(failed("verify", &path)(source));
            }
        }
        Ok(())
    }

    /// Brings everything to disk. One call for each file system costs less than one for each of
    /// many thousand small files, and reports failed writes as well (Linux 5.8 or later).
    pub(super) fn sync(&self) -> Result<()> {
        for root in self.roots() {
            let directory = File::open(root).map_err(failed("open", root))?;
            sync_file_system(&directory).map_err(failed("sync", root))?;
            let parent = root
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            if let Some(parent) = parent {
                let synced = File::open(parent).and_then(|parent| parent.sync_all());
                synced.map_err(failed("sync", parent))?;
            }
        }
        Ok(())
    }

    fn resolve(&self, path: &EntryPath) -> Result<PathBuf> {
        let root = match path.tablespace {
            None => &self.target.data_directory,
            Some(oid) => &self.tablespace(oid)?,
        };
        Ok(root.join(&path.path))
    }

    fn linked(&self, path: &EntryPath) -> Result<PathBuf> {
        let oid = path.linked_tablespace();
        let refuse = || RepositoryError::refused(format!("{path} does not lead to a tablespace"));
        self.tablespace(oid.ok_or_else(refuse)?)
    }

    fn tablespace(&self, oid: u32) -> Result<PathBuf> {
        let others = self.target.other_tablespaces.as_ref();
        let named = self.target.tablespaces.get(&oid).cloned();
        let place = named.or_else(|| Some(others?.join(oid.to_string())));
        place.ok_or_else(|| {
            RepositoryError::refused(format!("name a directory to restore tablespace {oid} into"))
        })
    }

    fn create_parent(&self, path: &Path) -> Result<()> {
        path.parent()
            .map_or(Ok(()), |parent| self.create_directory(parent))
    }

    fn create_directory(&self, path: &Path) -> Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        self.create_parent(path)?;
        DirBuilder::new()
            .mode(0o700)
            .create(path)
            .map_err(failed("create", path))?;
        self.own(path)
    }

    fn own(&self, path: &Path) -> Result<()> {
        let Some(owner) = self.target.owner else {
            return Ok(());
        };
        std::os::unix::fs::lchown(path, Some(owner.uid), Some(owner.gid))
            .map_err(failed("change the owner of", path))
    }
}

fn failed(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> RepositoryError {
    let path = path.to_owned();
    move |source| RepositoryError::Target {
        operation,
        path: path.clone(),
        source,
    }
}

#[cfg(target_os = "linux")]
fn sync_file_system(directory: &File) -> io::Result<()> {
    Ok(rustix::fs::syncfs(directory)?)
}

#[cfg(not(target_os = "linux"))]
fn sync_file_system(_: &File) -> io::Result<()> {
    rustix::fs::sync();
    Ok(())
}
