//! The repository: something is put, read back and deleted, beside everything that is stored there.

use std::path::Path;

use bytes::Bytes;
use events::{BranchName, InstanceName};
use pg_format::{SegmentName, TimelineId, WalSegmentSize};
use repository::{Repository, RepositoryError};
use uuid::Uuid;

use super::Check;
use crate::failure::Failure;
use crate::session::{Session, hasty};

const NAME: &str = "repository";
/// A repository of its own inside the repository: nothing that lists branches sees it.
const PLACE: &str = "doctor";
const CONTENT: &[u8] = b"zektor doctor";

pub(super) async fn check(session: &Session) -> Check {
    let Some(url) = session.repository_url() else {
        let hint = "set ZEKTOR_REPOSITORY_URL to the one that the services use";
        return Check::warning(NAME, "not known from here", hint);
    };
    match probe(url).await {
        Ok(true) => Check::ok(NAME, "an object was put, read back and deleted"),
        Ok(false) => {
            let hint = "do not trust this store; check what stands between it and this machine";
            Check::failed(NAME, "an object came back with other bytes", hint)
        }
        Err(error) => {
            let hint = "check the url, the credentials and the rights to put, get and delete";
            Check::failed(NAME, Failure::from(error).message, hint)
        }
    }
}

/// Whether what was put came back.
async fn probe(url: &str) -> Result<bool, RepositoryError> {
    let url = format!("{}/{PLACE}", url.trim_end_matches('/'));
    let repository = Repository::open(&url, hasty())?;
    // 32 digits: two that probe at the same time do not meet.
    let name = Uuid::now_v7().simple().to_string();
    let (Ok(instance), Ok(branch)) = (InstanceName::new(name), BranchName::new("probe")) else {
        return Ok(false);
    };
    let writer = repository.writer(&instance, &branch);
    let segment = SegmentName::new(TimelineId(1), 1, WalSegmentSize::DEFAULT);
    let _stored_bytes = writer
        .put_partial(segment, Bytes::from_static(CONTENT))
        .await?;
    let back = writer.get_partial(segment).await;
    writer.delete_partial(segment).await?;
    if let Some(directory) = url.strip_prefix("file://") {
        // Empty directories are all that is left in it; they harm nobody.
        let _ = std::fs::remove_dir_all(Path::new(directory));
    }
    Ok(back? == CONTENT)
}

#[cfg(test)]
mod tests {
    use super::probe;

    #[tokio::test]
    async fn the_probe_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let repository = directory.path().join("repository");
        assert!(
            probe(&format!("file://{}", repository.display()))
                .await
                .unwrap()
        );
        let left = std::fs::read_dir(repository).unwrap();
        assert_eq!(left.count(), 0);
    }
}
