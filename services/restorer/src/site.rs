//! Where the files of one branch's compute are.
//!
//! ```text
//! <compute_dir>/<instance>/<branch>/data                 PGDATA
//!                                  /tablespaces/<oid>    where pg_tblspc leads
//!                                  /conf                 the branch's own configuration files
//!                                  /log  /run  /spool    server log, unix socket, WAL for recovery
//!                                  /restore.json         the plan, while the branch is being built
//!                                  /outcome.json         written last: the branch is finished
//!                                  /stopped              there while the branch is to stay stopped
//!              /.drills/<drill>/...                     a drill's sandbox, until it is over
//! ```

use std::path::{Path, PathBuf};

use events::{BranchName, DrillId, InstanceName};
use uuid::Uuid;

/// `sun_path` of a Unix socket has 108 bytes on Linux, one of them a zero.
const LONGEST_SOCKET_PATH: usize = 107;

/// Below it the sandboxes of drills are. It begins with a dot, which the name of an instance cannot.
pub(crate) const DRILLS: &str = ".drills";

/// What a site is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tenant {
    Branch,
    Drill(DrillId),
}

/// The places of one branch, or of a drill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The instance.
    pub instance: InstanceName,
    /// The branch; of a drill, the one whose past is restored.
    pub branch: BranchName,
    tenant: Tenant,
    root: PathBuf,
    run: PathBuf,
}

impl Site {
    /// The site of a branch below `compute_dir`. Nothing is created.
    #[must_use]
    pub fn new(compute_dir: &Path, instance: &InstanceName, branch: &BranchName) -> Self {
        let root = compute_dir.join(instance.as_str()).join(branch.as_str());
        Self::of(compute_dir, instance, branch, Tenant::Branch, root)
    }

    /// The site of a drill below `compute_dir`. Nothing is created.
    #[must_use]
    pub fn drill(
        compute_dir: &Path,
        instance: &InstanceName,
        branch: &BranchName,
        id: DrillId,
    ) -> Self {
        let root = compute_dir.join(DRILLS).join(id.to_string());
        Self::of(compute_dir, instance, branch, Tenant::Drill(id), root)
    }

    fn of(
        compute_dir: &Path,
        instance: &InstanceName,
        branch: &BranchName,
        tenant: Tenant,
        root: PathBuf,
    ) -> Self {
        let natural = root.join("run");
        let longest = natural.join(".s.PGSQL.65535");
        let run = if longest.as_os_str().len() <= LONGEST_SOCKET_PATH {
            natural
        } else {
            // A name that fits, whatever the names of instance and branch are. It begins with a dot, which
            // the name of an instance cannot.
            let name = match tenant {
                Tenant::Branch => format!("{instance}/{branch}"),
                Tenant::Drill(id) => format!("{DRILLS}/{id}"),
            };
            let short = Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
                .simple()
                .to_string();
            compute_dir.join(".run").join(&short[..12])
        };
        Site {
            instance: instance.clone(),
            branch: branch.clone(),
            tenant,
            root,
            run,
        }
    }

    /// Whether it is a drill's, which is thrown away and must not slow the branches down.
    #[must_use]
    pub fn is_drill(&self) -> bool {
        matches!(self.tenant, Tenant::Drill(_))
    }

    /// The name of its lock.
    pub(crate) fn lock_name(&self) -> String {
        match self.tenant {
            Tenant::Branch => format!("{}.{}", self.instance, self.branch),
            Tenant::Drill(id) => format!("{DRILLS}.{id}"),
        }
    }

    /// Everything of the branch but perhaps its socket.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// PGDATA.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// The directories of tablespaces.
    #[must_use]
    pub fn tablespaces(&self) -> PathBuf {
        self.root.join("tablespaces")
    }

    /// The directory of one tablespace.
    #[must_use]
    pub fn tablespace(&self, oid: u32) -> PathBuf {
        self.tablespaces().join(oid.to_string())
    }

    /// Where recovery's WAL is put.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }

    /// The directory of the Unix socket.
    #[must_use]
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// The server's logs.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// What the server writes to its stderr.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.log().join("server.log")
    }

    /// The branch's configuration files.
    #[must_use]
    pub fn conf(&self) -> PathBuf {
        self.root.join("conf")
    }

    /// `postgresql.conf`.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.conf().join("postgresql.conf")
    }

    /// `pg_hba.conf`.
    #[must_use]
    pub fn hba_file(&self) -> PathBuf {
        self.conf().join("pg_hba.conf")
    }

    /// `pg_ident.conf`.
    #[must_use]
    pub fn ident_file(&self) -> PathBuf {
        self.conf().join("pg_ident.conf")
    }

    /// The script that recovery asks for WAL.
    #[must_use]
    pub fn fetch_script(&self) -> PathBuf {
        self.conf().join("fetch_wal.sh")
    }

    /// The stored plan.
    #[must_use]
    pub fn plan_file(&self) -> PathBuf {
        self.root.join("restore.json")
    }

    /// What came of the restore.
    #[must_use]
    pub fn outcome_file(&self) -> PathBuf {
        self.root.join("outcome.json")
    }

    /// Its existence is the wish that the server stays stopped.
    #[must_use]
    pub fn stopped_file(&self) -> PathBuf {
        self.root.join("stopped")
    }

    /// Whether the path of the server's socket fits into the kernel's limit.
    #[must_use]
    pub fn socket_fits(&self) -> bool {
        self.run.join(".s.PGSQL.65535").as_os_str().len() <= LONGEST_SOCKET_PATH
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use events::{BranchName, DrillId, InstanceName};
    use uuid::Uuid;

    use super::Site;

    #[test]
    fn a_long_name_gets_a_short_socket_of_its_own() {
        let site = |directory: &str, branch: &str| {
            let instance = InstanceName::new("a".repeat(40)).unwrap();
            Site::new(
                Path::new(directory),
                &instance,
                &BranchName::new(branch).unwrap(),
            )
        };
        let long = site("/var/lib/zektor/0123456789ab", &"b".repeat(40));
        assert!(long.socket_fits(), "{}", long.run().display());
        assert_ne!(
            long.run(),
            site("/var/lib/zektor/0123456789ab", &"c".repeat(40)).run()
        );
        let short = site("/c", "b");
        assert_eq!(short.run(), short.root().join("run"));
        assert!(!site(&format!("/{}", "d".repeat(90)), "b").socket_fits());
    }

    #[test]
    fn a_drill_meets_no_branch() {
        let (instance, main) = (InstanceName::new("orders").unwrap(), BranchName::main());
        let directory = Path::new("/var/lib/zektor/0123456789ab");
        let drill = |n| Site::drill(directory, &instance, &main, DrillId(Uuid::from_u128(n)));
        let branch = Site::new(directory, &instance, &main);
        assert!(drill(1).root().starts_with(directory.join(".drills")));
        assert!(drill(1).is_drill() && !branch.is_drill());
        assert_ne!(drill(1).lock_name(), branch.lock_name());
        assert_ne!(drill(1).lock_name(), drill(2).lock_name());
        assert_ne!(drill(1).run(), drill(2).run());
        assert!(drill(1).socket_fits(), "{}", drill(1).run().display());
    }
}
