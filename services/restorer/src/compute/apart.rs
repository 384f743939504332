//! How the server of a drill is started: behind everything else, and with no way out.
//!
//! What must stay true: every tool runs the program in its own place, so that its process is the server's; what this
//! machine does not have or allow is left out, never a reason not to start.

use std::path::{Path, PathBuf};

/// The processor, and disks: the best-effort class, as the idle one would let a busy disk starve it for ever.
const BEHIND: [&[&str]; 2] = [
    &["/usr/bin/nice", "-n", "15"],
    &["/usr/bin/ionice", "-c", "2", "-n", "7", "-t"],
];
/// A network with nothing in it, for whoever is no root too (unshare(1)). Unix sockets are files, and go on to work.
const WITHOUT_NETWORK: &[&str] = &["/usr/bin/unshare", "--user", "--map-current-user", "--net"];

/// What a server may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Network {
    /// Nothing.
    None,
    /// What this machine reaches.
    Ours,
}

impl Network {
    /// None, unless it is `wanted` or `may` says of these words that they cannot be run.
    pub(super) fn of(wanted: bool, may: impl FnOnce(&[&str]) -> bool) -> Self {
        if wanted {
            return Network::Ours;
        }
        let tried = [WITHOUT_NETWORK, &["/bin/true"]].concat();
        if may(&tried) {
            return Network::None;
        }
        tracing::warn!(
            tried = tried.join(" "),
            "this machine does not let a server be parted from the network; that of the drill has one"
        );
        Network::Ours
    }
}

/// The words that run a program so.
pub(super) fn apart(program: &Path, network: Network) -> Vec<PathBuf> {
    let behind = BEHIND.iter().copied();
    let parted = (network == Network::None).then_some(WITHOUT_NETWORK);
    let tools = behind
        .filter(|tool| Path::new(tool[0]).is_file())
        .chain(parted);
    let words = tools.flat_map(|tool| tool.iter().map(PathBuf::from));
    words.chain([program.to_owned()]).collect()
}
