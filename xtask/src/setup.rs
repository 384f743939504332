//! Installs the servers that the tests need, all supported PostgreSQL among them; the demo asks for its two
//! only. Works twice: the second time it only finds them.

use anyhow::{Result, bail};
use provision::{Tool, Tools};

use crate::say::{complain, say};

/// Every server.
pub(crate) fn run() -> Result<()> {
    install(&Tool::ALL)?;
    let library =
        provision::install_fake_clock(&mut |step| say(&format!("  libfaketime: {step}")))?;
    say(&format!(
        "  {:<14} {:<8} {}",
        "libfaketime",
        "",
        library.display()
    ));
    Ok(())
}

/// These servers, one line for each, and one for each step that was needed. One that cannot be installed
/// does not keep the others from it.
pub(crate) fn install(needed: &[Tool]) -> Result<()> {
    let tools = Tools::from_environment()?;
    let mut missing = Vec::new();
    for tool in needed {
        let installed = tools.install(*tool, &mut |step| say(&format!("  {tool}: {step}")));
        match installed.map_err(anyhow::Error::from) {
            Ok(found) => say(&format!(
                "  {:<14} {:<8} {}",
                tool.name(),
                found.version,
                found.bin_directory.display()
            )),
            Err(error) => {
                complain(&format!("  {tool}: {error:#}"));
                missing.push(tool.name());
            }
        }
    }
    if !missing.is_empty() {
        bail!("not installed: {}", missing.join(", "));
    }
    Ok(())
}
