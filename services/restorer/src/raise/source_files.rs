//! The files that came from the source: what of its configuration goes with the branch, and what must not stay.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use events::plan::PlanCheck;

use super::{Raise, forget};
use crate::compute::ComputeError;
use crate::error::RestoreError;
use crate::fetch;
use crate::hazards::{listed, warning};
use crate::settings::{self, carried};

/// What of the source's configuration files goes with the branch.
pub(super) struct Carried {
    pub(super) settings: Vec<(String, String)>,
    /// Libraries that the source preloads and the branch does not.
    not_preloaded: Vec<String>,
    /// Names of what was set with `ALTER SYSTEM` and is not taken over.
    left: Vec<String>,
}

impl Carried {
    pub(super) fn checks(&self) -> Vec<PlanCheck> {
        let mut checks = Vec::new();
        if !self.not_preloaded.is_empty() {
            let detail = format!(
                "the source preloads them, the branch does not, as they may act outside of it or are not installed: \
                 {}; where an extension needs one, ALTER SYSTEM SET shared_preload_libraries, then stop and start \
                 the branch",
                listed(&self.not_preloaded)
            );
            checks.push(warning("preload_libraries", detail));
        }
        if !self.left.is_empty() {
            let names = listed(&self.left);
            let detail = format!("set with ALTER SYSTEM on the source and not taken over: {names}");
            checks.push(warning("settings", detail));
        }
        checks
    }
}

impl Raise<'_> {
    /// What is carried over, if the server understands it: a locale or time zone may be unknown here.
    pub(super) async fn carried(&self) -> Result<Carried, RestoreError> {
        let data = self.site.data();
        let parsed = |file: &str| {
            let text = fs::read(data.join(file)).unwrap_or_default();
            carried::parse(&String::from_utf8_lossy(&text))
        };
        let automatic = parsed("postgresql.auto.conf");
        let mut left: Vec<String> = automatic.iter().map(|(name, _)| name.clone()).collect();
        let merged: BTreeMap<String, String> = parsed("postgresql.conf")
            .into_iter()
            .chain(automatic)
            .collect();
        let merged: Vec<(String, String)> = merged.into_iter().collect();
        let bin = &self.prepared.programs.bin;
        let (mut carried, not_preloaded) =
            carried::select(&merged, |name| carried::library_exists(bin, name));
        // The file that is tried lies where the server may read it, and has nothing else in it.
        let conf = self.site.conf().join("carried.conf");
        let mut understood = Vec::new();
        for (name, value) in carried.drain(..) {
            let line = format!(
                "{name} = '{}'\n",
                value.replace('\\', r"\\").replace('\'', "''")
            );
            self.restorer.compute.write(&conf, line.as_bytes()).await?;
            let data = data.display().to_string();
            let file = format!("config_file={}", conf.display());
            let arguments = ["-D", &data, "-c", &file, "-C", &name];
            let postgres = self.prepared.programs.program("postgres");
            match self.restorer.compute.run(&postgres, &arguments).await {
                Ok(_) => understood.push((name, value)),
                Err(error) => {
                    tracing::warn!(setting = name, %error, "a setting is not carried over");
                }
            }
        }
        let _ = fs::remove_file(&conf);
        left.retain(|name| !understood.iter().any(|(known, _)| known == name));
        Ok(Carried {
            settings: understood,
            not_preloaded,
            left,
        })
    }

    /// Makes the copy a cluster that recovers, under our configuration. `backup_label` stays as it is.
    pub(super) async fn prepare_files(&self) -> Result<(), RestoreError> {
        let (site, compute, data) = (self.site, &*self.restorer.compute, self.site.data());
        let automatic = data.join("postgresql.auto.conf");
        if automatic.exists() {
            let kept = data.join("postgresql.auto.conf.source");
            fs::rename(&automatic, &kept).map_err(ComputeError::file("rename", &automatic))?;
        }
        compute.write(&automatic, b"").await?;
        // The links are restored as links; with this file the server would make the source's anew.
        for leftover in ["standby.signal", "tablespace_map", "postmaster.pid"] {
            forget(&data.join(leftover))?;
        }
        // A base backup comes without slots; one that came all the same would hold WAL for nobody.
        empty(&data.join("pg_replslot"))?;
        compute.write(&data.join("recovery.signal"), b"").await?;
        compute
            .write(&site.hba_file(), settings::LOCKED_HBA.as_bytes())
            .await?;
        compute.write(&site.ident_file(), b"").await?;
        let script = fetch::script(&site.spool());
        compute
            .write(&site.fetch_script(), script.as_bytes())
            .await?;
        Ok(())
    }
}

fn empty(directory: &Path) -> Result<(), ComputeError> {
    let failed = |source| ComputeError::file("empty", directory)(source);
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            fs::remove_dir_all(&path).map_err(ComputeError::file("remove", &path))?;
        } else {
            forget(&path)?;
        }
    }
    Ok(())
}
