//! A local directory whose puts are on disk when they return.
//!
//! `object_store`'s own `with_fsync` syncs the file, its directory, and the directories it created
//! itself. That leaves two holes, closed here: a directory that another writer, or an earlier
//! process that was killed, created but had not synced yet; and "already exists", answered for an
//! object whose directory entry is not on disk yet. It also answers "not found" for everything
//! when the disk is not mounted, so the root is checked before an absence is believed. And it cannot replace
//! an object only if it is what was read; here that is done under a lock on the object's directory.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result, UpdateVersion,
};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

const STORE: &str = "local directory";

/// The directory, and which of its subdirectories this process has synced.
#[derive(Clone, Debug)]
pub(crate) struct DurableDirectory {
    files: LocalFileSystem,
    root: Arc<Root>,
}

#[derive(Debug)]
struct Root {
    path: PathBuf,
    /// Device and inode: what is mounted there now must be what was there when it was opened.
    identity: (u64, u64),
    synced: Mutex<HashSet<PathBuf>>,
}

impl DurableDirectory {
    /// Opens the directory, created (readable by its owner alone) when missing.
    pub(crate) fn open(path: &FilePath) -> io::Result<Self> {
        create_synced(path)?;
        let path = path.canonicalize()?;
        let files = LocalFileSystem::new_with_prefix(&path)?.with_fsync(true);
        let identity = identity(&path)?;
        let root = Root {
            path,
            identity,
            synced: Mutex::default(),
        };
        Ok(DurableDirectory {
            files,
            root: Arc::new(root),
        })
    }

    /// Makes sure that the directory of `location` exists and is on disk up to the root.
    async fn prepare(&self, location: &Path) -> Result<PathBuf> {
        let file = self.files.path_to_filesystem(location)?;
        let root = Arc::clone(&self.root);
        blocking(move || {
            root.check()?;
            let directory = file.parent().unwrap_or(&root.path).to_owned();
            if !root
                .synced
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(&directory)
            {
                private_directories(&directory)?;
                for ancestor in directory.ancestors() {
                    sync(ancestor)?;
                    if ancestor == root.path {
                        break;
                    }
                }
                let mut synced = root.synced.lock().unwrap_or_else(PoisonError::into_inner);
                let _ = synced.insert(directory.clone());
            }
            Ok(directory)
        })
        .await
    }

    async fn check_version(&self, location: &Path, version: &UpdateVersion) -> Result<()> {
        let found = match self.believe(self.files.head(location).await).await {
            Ok(found) => found.e_tag,
            Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        if found.is_some() && found == version.e_tag {
            return Ok(());
        }
        Err(Error::Precondition {
            path: location.to_string(),
            source: "the object is not what was read any more".into(),
        })
    }

    async fn believe<T>(&self, result: Result<T>) -> Result<T> {
        if matches!(result, Err(Error::NotFound { .. })) {
            let root = Arc::clone(&self.root);
            blocking(move || root.check()).await?;
        }
        result
    }
}

impl Root {
    fn check(&self) -> io::Result<()> {
        if identity(&self.path).ok() == Some(self.identity) {
            return Ok(());
        }
        let path = self.path.display();
        Err(io::Error::other(format!(
            "{path} is gone or is not mounted any more"
        )))
    }
}

fn identity(path: &FilePath) -> io::Result<(u64, u64)> {
    let metadata = path.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

fn private_directories(path: &FilePath) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// Creates the directory and syncs every directory that gained an entry by it.
fn create_synced(path: &FilePath) -> io::Result<()> {
    let missing = path
        .ancestors()
        .take_while(|directory| !directory.exists())
        .count();
    private_directories(path)?;
    path.ancestors()
        .take(missing + 1)
        .filter(|path| path.is_dir())
        .try_for_each(sync)
}

fn sync(directory: &FilePath) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Locks a directory against other processes and tasks that do the same, until the file is dropped. Waits a little for
/// one that holds the lock, which it does for the time of one put.
async fn lock(directory: PathBuf) -> Result<File> {
    const PAUSE: Duration = Duration::from_millis(20);
    const ATTEMPTS: u32 = 500;
    let directory = Arc::new(directory);
    for _ in 0..ATTEMPTS {
        let directory = Arc::clone(&directory);
        let locked = blocking(move || {
            let file = File::open(&*directory)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Ok(Some(file)),
                Err(error) if error == Errno::WOULDBLOCK => Ok(None),
                Err(error) => Err(error.into()),
            }
        });
        if let Some(file) = locked.await? {
            return Ok(file);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(Error::Generic {
        store: STORE,
        source: format!("somebody else holds the lock on {}", directory.display()).into(),
    })
}

async fn blocking<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> io::Result<T> + Send + 'static,
{
    tokio::task::spawn_blocking(work)
        .await?
        .map_err(|error| Error::Generic {
            store: STORE,
            source: error.into(),
        })
}

impl fmt::Display for DurableDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "directory {}", self.root.path.display())
    }
}

/// Removes unfinished files (`<name>#<number>`) under `directory`, and directories that are empty then, itself too;
/// except under `keep`.
pub(super) fn sweep(directory: &FilePath, keep: &FilePath) -> io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() && path != keep {
            sweep(&path, keep)?;
        } else if is_unfinished(&path) {
            std::fs::remove_file(&path)?;
        }
    }
    // Fails when something is left in it, which is as it should be.
    let _ = std::fs::remove_dir(directory);
    Ok(())
}

/// How `LocalFileSystem` names a file until it is complete; such a name is no object's.
fn is_unfinished(path: &FilePath) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let number = name.rsplit_once('#').map(|(_, number)| number);
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()))
}

#[async_trait]
impl ObjectStore for DurableDirectory {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let directory = self.prepare(location).await?;
        if let PutMode::Update(version) = &options.mode {
            let _lock = lock(directory).await?;
            self.check_version(location, version).await?;
            let options = PutOptions {
                mode: PutMode::Overwrite,
                ..options
            };
            return self.files.put_opts(location, payload, options).await;
        }
        let result = self.files.put_opts(location, payload, options).await;
        if matches!(result, Err(Error::AlreadyExists { .. })) {
            // Its content was synced before it got its name; whether the name was is unknown.
            blocking(move || sync(&directory)).await?;
        }
        result
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let _ = self.prepare(location).await?;
        self.files.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let result = self.files.get_opts(location, options).await;
        self.believe(result).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let result = self.files.get_ranges(location, ranges).await;
        self.believe(result).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.files.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.root.check() {
            Ok(()) => self.files.list(prefix),
            Err(error) => {
                let error = Error::Generic {
                    store: STORE,
                    source: error.into(),
                };
                Box::pin(futures::stream::once(async move { Err(error) }))
            }
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let root = Arc::clone(&self.root);
        blocking(move || root.check()).await?;
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let _ = self.prepare(to).await?;
        self.files.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use object_store::path::Path;
    use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, UpdateVersion};

    use super::{DurableDirectory, sweep};

    #[tokio::test]
    async fn a_directory_that_was_replaced_is_not_believed() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("repository");
        let store = DurableDirectory::open(&root).unwrap();
        let key = Path::from("v1/a");
        let _ = store.put(&key, "x".into()).await.unwrap();
        let missing = store.get(&Path::from("v1/b")).await;
        assert!(matches!(missing, Err(Error::NotFound { .. })));

        fs::rename(&root, place.path().join("unmounted")).unwrap();
        fs::create_dir(&root).unwrap();
        let error = store.get(&key).await.unwrap_err();
        assert!(matches!(error, Error::Generic { .. }), "{error}");
        assert!(
            store.put(&key, "y".into()).await.is_err(),
            "nothing goes onto the wrong disk"
        );
        assert!(store.list_with_delimiter(None).await.is_err());
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn puts_and_creates() {
        let place = tempfile::tempdir().unwrap();
        let store = DurableDirectory::open(place.path()).unwrap();
        let key = Path::from("deep/below/object");
        let create = || store.put_opts(&key, "new".into(), PutMode::Create.into());
        let _ = create().await.unwrap();
        assert!(matches!(create().await, Err(Error::AlreadyExists { .. })));
        let _ = store.put(&key, "newer".into()).await.unwrap();
        fs::remove_dir_all(place.path().join("deep")).unwrap();
        let _ = store.put(&key, "after removal".into()).await.unwrap();
        let read = store.get(&key).await.unwrap().bytes().await.unwrap();
        assert_eq!(read, "after removal");
    }

    #[tokio::test]
    async fn replaces_only_what_was_read() {
        let place = tempfile::tempdir().unwrap();
        // Two openings, as of two processes.
        let (one, two) = (
            DurableDirectory::open(place.path()).unwrap(),
            DurableDirectory::open(place.path()).unwrap(),
        );
        let key = Path::from("deep/object");
        let _ = one.put(&key, "a".into()).await.unwrap();
        let read = two.head(&key).await.unwrap();
        let version = UpdateVersion {
            e_tag: read.e_tag,
            version: None,
        };
        let update = |store: &DurableDirectory, text: &'static str| {
            let mode = PutMode::Update(version.clone());
            let (store, key) = (store.clone(), key.clone());
            async move { store.put_opts(&key, text.into(), mode.into()).await }
        };
        let (first, second) = tokio::join!(update(&one, "bb"), update(&two, "ccc"));
        assert_eq!(
            [&first, &second].iter().filter(|put| put.is_ok()).count(),
            1
        );
        let lost = first.err().or(second.err());
        assert!(matches!(lost, Some(Error::Precondition { .. })), "{lost:?}");
        one.delete(&key).await.unwrap();
        assert!(matches!(
            update(&one, "d").await,
            Err(Error::Precondition { .. })
        ));
        assert!(matches!(one.get(&key).await, Err(Error::NotFound { .. })));
    }

    #[test]
    fn sweeps_what_is_unfinished() {
        let place = tempfile::tempdir().unwrap();
        let file = |path: &str| {
            let path = place.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "x").unwrap();
            path
        };
        let gone = [file("killed/000001#1"), file("mixed/000001#12")];
        let stays = [
            file("mixed/000001"),
            file("mixed/a#b"),
            file("kept/000002#1"),
        ];
        sweep(place.path(), &place.path().join("kept")).unwrap();
        assert!(gone.iter().all(|path| !path.exists()));
        assert!(stays.iter().all(|path| path.exists()));
        assert!(!place.path().join("killed").exists());
    }
}
