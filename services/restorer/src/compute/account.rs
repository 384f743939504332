//! Who runs the servers, and where that user can reach their files.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use provision::{Account, account, is_root};
use uuid::Uuid;

use super::ComputeError;

/// The user that runs servers; `None` when that is the user of this process. PostgreSQL refuses to run as root.
///
/// # Errors
/// We are root and there is no such user.
pub fn compute_account(user: &str) -> Result<Option<Account>, ComputeError> {
    if !is_root() {
        return Ok(None);
    }
    match account(user) {
        Some(account) if account.uid != 0 => Ok(Some(account)),
        _ => Err(ComputeError::NoUser {
            user: user.to_owned(),
        }),
    }
}

/// Where branches are kept: `configured`, else `<home>/compute` if the server's user can get there, else a
/// directory of this home below `/var/lib/zektor`.
#[must_use]
pub fn compute_directory(
    configured: Option<PathBuf>,
    home: &Path,
    account: Option<Account>,
) -> PathBuf {
    let in_home = home.join("compute");
    match (configured, account) {
        (Some(configured), _) => configured,
        (None, None) => in_home,
        (None, Some(account)) if reachable(home, account) => in_home,
        (None, Some(_)) => {
            let name = Uuid::new_v5(&Uuid::NAMESPACE_URL, home.as_os_str().as_encoded_bytes());
            let name = name.simple().to_string();
            Path::new("/var/lib/zektor").join(&name[..12])
        }
    }
}

/// Whether the user may pass through every directory of `path` that exists.
fn reachable(path: &Path, account: Account) -> bool {
    path.ancestors()
        .all(|directory| match fs::metadata(directory) {
            Ok(found) => {
                let mode = found.mode();
                (mode & 0o001 != 0)
                    || (found.gid() == account.gid && mode & 0o010 != 0)
                    || (found.uid() == account.uid && mode & 0o100 != 0)
            }
            // It will be made by us, so that it can be passed.
            Err(_) => true,
        })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use provision::Account;

    use super::compute_directory;

    #[test]
    fn a_closed_home_is_left_for_a_place_that_can_be_reached() {
        let home = tempfile::tempdir_in("/tmp").unwrap();
        let stranger = Some(Account {
            uid: 65_533,
            gid: 65_533,
        });
        fs::set_permissions(home.path(), Permissions::from_mode(0o700)).unwrap();
        let elsewhere = compute_directory(None, home.path(), stranger);
        assert!(
            elsewhere.starts_with("/var/lib/zektor"),
            "{}",
            elsewhere.display()
        );
        fs::set_permissions(home.path(), Permissions::from_mode(0o711)).unwrap();
        let inside = home.path().join("compute");
        assert_eq!(compute_directory(None, home.path(), stranger), inside);
        assert_eq!(compute_directory(None, home.path(), None), inside);
        let chosen = compute_directory(Some("/srv/x".into()), home.path(), stranger);
        assert_eq!(chosen, Path::new("/srv/x"));
    }
}
