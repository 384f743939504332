//! Installs the servers that the demo and the tests need; works twice.

use provision::{Tool, Tools};

use crate::say::say;

/// Installs every tool, one line for each, and one for each step taken.
pub(crate) fn run() -> anyhow::Result<()> {
    let tools = Tools::from_environment()?;
    for tool in Tool::ALL {
        let found = tools.install(tool, &mut |step| say(&format!("  {tool}: {step}")))?;
        say(&format!(
            "{:<14} {:<8} {}",
            tool.name(),
            found.version,
            found.bin_directory.display()
        ));
    }
    Ok(())
}
