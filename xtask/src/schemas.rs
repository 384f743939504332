//! The generated contract in `schemas/`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use events::schema;

use crate::say::{complain, say};
use crate::workspace;

/// Writes what the types say, and removes what they no longer say.
pub(crate) fn write() -> Result<()> {
    let directory = directory()?;
    schema::write_all(&directory).context("cannot write schemas/")?;
    for orphan in orphans(&directory)? {
        fs::remove_file(directory.join(orphan))?;
    }
    say(&format!(
        "schemas/: {} files written",
        schema::files().len()
    ));
    Ok(())
}

/// Fails when a file is missing, differs, or belongs to no type.
pub(crate) fn check() -> Result<()> {
    let directory = directory()?;
    let mut wrong = schema::drift(&directory);
    wrong.extend(orphans(&directory)?);
    if wrong.is_empty() {
        say(&format!(
            "schemas    ok: {} files are what the types say",
            schema::files().len()
        ));
        return Ok(());
    }
    for path in &wrong {
        complain(&format!(
            "  schemas/{} is not what the types say",
            path.display()
        ));
    }
    bail!("run `cargo xtask schemas`, and read the difference: released messages do not change")
}

fn directory() -> Result<PathBuf> {
    Ok(workspace::root()?.join("schemas"))
}

/// Files that no type makes any more.
fn orphans(directory: &Path) -> Result<Vec<PathBuf>> {
    let made: BTreeSet<_> = schema::files().into_keys().collect();
    let mut orphans = Vec::new();
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(relative) = path.strip_prefix(directory)
                && !made.contains(relative)
            {
                orphans.push(relative.to_owned());
            }
        }
    }
    Ok(orphans)
}
