//! What is looked at before anything is started, beyond the plan itself: the disk, the programs, and what the
//! backup's own files say of the server it was taken from.
//!
//! What must stay true: what cannot succeed is a [`Refusal`]; what works but somebody should know is a warning; what
//! cannot be known beforehand is not claimed. Collation versions are in the catalogs, which nobody can read before
//! recovery: they are compared when the branch is ready ([`crate::collations`]).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use events::event::{BackupSummary, RefusalCode};
use events::plan::PlanCheck;
use events::{BackupId, ClusterSize};
use pg_format::{ControlFile, ControlSettings, TimelineId};
use repository::{Repository, RepositoryError};
use wal_index::Names;

use crate::compute::Programs;
use crate::plan::{Plan, Refusal, passed, warning};
use crate::settings::carried;
use crate::settings::tier;

/// Configuration and control files are far smaller.
const MOST_BYTES: u64 = 4 << 20;
const CONTROL: &str = "global/pg_control";
/// Later ones win, as on the server.
const CONFIGURATION: [&str; 2] = ["postgresql.conf", "postgresql.auto.conf"];

/// What the files of a backup say of its source. It never changes, so it may be kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceServer {
    /// The settings that its WAL demands of whoever replays it; `None` if `pg_control` is not understood.
    pub settings: Option<ControlSettings>,
    /// Its `shared_preload_libraries`; `None` if its configuration is not in the backup.
    pub preloaded: Option<Vec<String>>,
}

impl SourceServer {
    /// Reads a backup's configuration and control file.
    ///
    /// # Errors
    /// The repository failed.
    pub async fn read(
        repository: &Repository,
        backup: &BackupSummary,
    ) -> Result<Self, RepositoryError> {
        let reader = repository.reader(&backup.instance, &backup.branch);
        let manifest = reader.manifest(backup.backup_id).await?;
        let paths = [CONFIGURATION[0], CONFIGURATION[1], CONTROL];
        let files = reader
            .backed_up_files(&manifest, &paths, MOST_BYTES)
            .await?;
        let control = files
            .get(CONTROL)
            .map(|control| ControlFile::parse(control));
        let mut configured = files.contains_key(CONFIGURATION[0]).then(Vec::new);
        for text in CONFIGURATION.iter().filter_map(|path| files.get(*path)) {
            let settings = carried::parse(&String::from_utf8_lossy(text));
            let preload = settings
                .into_iter()
                .find(|(name, _)| name == "shared_preload_libraries");
            if let Some((_, value)) = preload {
                configured = Some(libraries(&value));
            }
        }
        Ok(SourceServer {
            settings: control.and_then(Result::ok).map(|control| control.settings),
            preloaded: configured,
        })
    }
}

/// What is known of the sources of backups.
#[derive(Clone, Debug, Default)]
pub struct SourceServers(Arc<Mutex<BTreeMap<BackupId, Arc<SourceServer>>>>);

impl SourceServers {
    /// The source of a backup.
    ///
    /// # Errors
    /// The repository failed.
    pub async fn of(
        &self,
        repository: &Repository,
        backup: &BackupSummary,
    ) -> Result<Arc<SourceServer>, RepositoryError> {
        const MOST: usize = 1_000;
        let id = backup.backup_id;
        if let Some(known) = self.kept().get(&id) {
            return Ok(Arc::clone(known));
        }
        let source = Arc::new(SourceServer::read(repository, backup).await?);
        let mut kept = self.kept();
        if kept.len() >= MOST {
            let _ = kept.pop_first();
        }
        let _ = kept.insert(id, Arc::clone(&source));
        Ok(source)
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<BackupId, Arc<SourceServer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A number of bytes as people read it.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = UNITS.into_iter().find(|(_, bits)| bytes >> bits > 0);
    match unit {
        Some((unit, bits)) => {
            let tenths = (u128::from(bytes) * 10) >> bits;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} bytes"),
    }
}

fn libraries(value: &str) -> Vec<String> {
    let named = value
        .split(',')
        .map(|library| library.trim().trim_matches('"'));
    named
        .filter(|library| !library.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Whether the files fit, with `room` for the WAL that is spooled and for what the server writes meanwhile. Replay may
/// add as many bytes as there is WAL, but seldom does: that is a warning.
///
/// # Errors
/// The files do not fit.
pub fn disk(plan: &Plan, free: Option<u64>, room: u64) -> Result<PlanCheck, Refusal> {
    let needed = plan.backup.logical_bytes.saturating_add(room);
    let Some(free) = free else {
        let detail = "nobody knows how much is free where branches are kept".to_owned();
        return Ok(warning("disk", detail));
    };
    if free < needed {
        let message = format!(
            "the branch needs {} and the restorer's disk has {} left",
            size(needed),
            size(free)
        );
        let hint = format!(
            "make room in the restorer's compute directory, or delete branches; {} of it are for wal and what the server \
             writes (ZEKTOR_RESTORE_ROOM)",
            size(room)
        );
        return Err(Refusal::new(RefusalCode::Limit, message, hint));
    }
    let most = needed.saturating_add(plan.wal_bytes());
    Ok(if free < most {
        let detail = format!(
            "{} are free; the files need {}, and the replay of {} of wal may fill the rest",
            size(free),
            size(needed),
            size(plan.wal_bytes())
        );
        warning("disk", detail)
    } else {
        passed(
            "disk",
            format!("{} are free, {} are needed", size(free), size(needed)),
        )
    })
}

/// Whether a drill leaves room enough for restores that somebody needs: twice what a restore wants beside the files.
///
/// # Errors
/// It does not.
pub fn room_for_drill(plan: &Plan, free: Option<u64>, room: u64) -> Result<(), Refusal> {
    let needed = plan
        .backup
        .logical_bytes
        .saturating_add(room.saturating_mul(2));
    match free {
        Some(free) if free < needed => {
            let message = format!(
                "the drill needs {}, part of it to leave room for restores, and the restorer's disk has {} left",
                size(needed),
                size(free)
            );
            let hint = "make room in the restorer's compute directory, or run drills on a restorer with a larger \
                        disk (ZEKTOR_DRILL_CONCURRENCY=0 keeps one out of them)";
            Err(Refusal::new(RefusalCode::Limit, message, hint))
        }
        _ => Ok(()),
    }
}

/// The programs that will run the branch: the same major version, and no older than the source's, whose files they
/// read.
#[must_use]
pub fn programs(plan: &Plan, programs: &Programs) -> PlanCheck {
    let (found, source) = (programs.version.0, plan.backup.server_version);
    let detail = format!(
        "postgresql {} in {}",
        programs.version,
        programs.bin.display()
    );
    if found < source {
        let source = pg_format::ServerVersion(source);
        return warning(
            "programs",
            format!("{detail} is older than the source's {source}; its fixes are missing there"),
        );
    }
    passed("programs", detail)
}

/// Whether what the source preloads is there. Most libraries are not needed to replay its WAL.
#[must_use]
pub fn preload(source: &SourceServer, bin: &Path) -> PlanCheck {
    const NAME: &str = "preload_libraries";
    let Some(preloaded) = &source.preloaded else {
        let detail =
            "the source's configuration is not in the backup; what it preloads is not known";
        return warning(NAME, detail.to_owned());
    };
    if preloaded.is_empty() {
        return passed(NAME, "the source preloads none".to_owned());
    }
    let named = |kept: &dyn Fn(&str) -> bool| -> Vec<&str> {
        let libraries = preloaded.iter().map(String::as_str);
        libraries.filter(|library| kept(library)).collect()
    };
    let missing = named(&|library| !carried::library_exists(bin, library));
    if !missing.is_empty() {
        let detail = format!(
            "{} is not installed beside {}; extensions that need it will not work in the branch",
            missing.join(", "),
            bin.display()
        );
        return warning(NAME, detail);
    }
    passed(NAME, format!("{} is installed", preloaded.join(", ")))
}

/// The settings that the source's WAL demands, against those of the branch's size: recovery runs with the source's.
#[must_use]
pub fn hot_standby(source: &SourceServer, size: ClusterSize) -> PlanCheck {
    const NAME: &str = "hot_standby_settings";
    let Some(settings) = &source.settings else {
        let detail = "pg_control of the backup is not understood; recovery raises settings as its log demands";
        return warning(NAME, detail.to_owned());
    };
    let tier = tier(size);
    let mut lowered = Vec::new();
    let mut compare = |name: &str, source: i32, branch: u32| {
        if u32::try_from(source).is_ok_and(|source| source > branch) {
            lowered.push(format!("{name} {source} (then {branch})"));
        }
    };
    compare(
        "max_connections",
        settings.max_connections,
        tier.max_connections,
    );
    compare(
        "max_worker_processes",
        settings.max_worker_processes,
        tier.workers,
    );
    if lowered.is_empty() {
        return passed(
            NAME,
            "the branch's size has all that the source's wal demands".to_owned(),
        );
    }
    let detail = format!(
        "recovery runs with the source's {}, as its wal demands",
        lowered.join(", ")
    );
    passed(NAME, detail)
}

/// Whether the history of every timeline on the way is archived. The pinned one's is never missing here.
#[must_use]
pub fn history_files(plan: &Plan, archived: impl Fn(TimelineId) -> bool) -> PlanCheck {
    const NAME: &str = "history_files";
    let path = plan.history.path();
    let missing: Vec<String> = path
        .iter()
        .map(|range| range.timeline)
        .filter(|timeline| *timeline != TimelineId(1) && *timeline != plan.history.timeline())
        .filter(|timeline| !archived(*timeline))
        .map(|timeline| timeline.to_string())
        .collect();
    if missing.is_empty() {
        let lead = match path.len() {
            1 => "1 timeline leads there".to_owned(),
            more => format!("{more} timelines lead there"),
        };
        return passed(NAME, lead);
    }
    let detail = format!(
        "the history of timeline {} is not archived; the one of {} tells the same",
        missing.join(", "),
        plan.history.timeline()
    );
    warning(NAME, detail)
}

/// The databases that will be listed in the branch but have lost their files.
#[must_use]
pub fn half_dropped(plan: &Plan, names: &Names) -> Vec<PlanCheck> {
    let lost = plan.half_dropped.iter().map(|(oid, lsn)| {
        let name = names
            .database_at(*oid, *lsn)
            .map_or_else(|| format!("with oid {oid}"), |name| format!("{name:?}"));
        let detail = format!(
            "the files of database {name} go away at {lsn}, before its drop is committed: it will be listed in the \
             branch but cannot be used; choose a target before {lsn} to have it"
        );
        warning("dropped_database", detail)
    });
    lost.collect()
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_for_people() {
        assert_eq!(size(19_007_836_160), "17.7 GiB");
        assert_eq!(size(1_101_047_352), "1.0 GiB");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(1023), "1023 bytes");
        assert!(size(u64::MAX).ends_with("TiB"));
    }
}
