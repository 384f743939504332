//! An instance whose server has moved: another host, port, user, password or database of the same cluster.
//!
//! What must stay true: only the cluster that was registered takes the place. Its system identifier says which one it
//! is; WAL of another one in the same archive would be worth nothing.

use events::command::InstanceUpdate;
use events::document::{ActiveBranch, Branch, slot_name};
use events::event::RefusalCode;
use events::{ArchiveMode, BranchName, InstanceDocument, InstanceName};
use pg_format::SystemIdentifier;

use super::World;
use crate::refusal::{Refusal, Unfinished};
use crate::source;

impl World {
    /// Looks at the server that the instance is to be backed up from, as at one that is added, and makes its slot. It
    /// must be called before the document is changed.
    pub(super) async fn look_at_moved(&self, update: &InstanceUpdate) -> Result<(), Unfinished> {
        let (instance, main) = (&update.instance, BranchName::main());
        let Some(sealed) = &update.dsn else {
            return Ok(());
        };
        let document = self.document(instance).await?;
        let registered = main_of(&document)?;
        let dsn = self.open_dsn(instance, &main, sealed)?;
        let mut source = source::inspect(&dsn).await?;
        check_cluster(instance, registered, source.system_identifier)?;
        // A slot is not copied with a server: whoever has that of a restored branch is that branch.
        for branch in document.branches.keys().filter(|branch| **branch != main) {
            if source.has_slot(&slot_name(instance, branch)).await? {
                return Err(Refusal::new(
                    RefusalCode::UnsuitableSource,
                    format!("that is the server of branch {branch} of {instance}, which is archived already"),
                    "Give the URI of the server that main is on now.",
                )
                .into());
            }
        }
        if registered.archive_mode == ArchiveMode::Stream {
            let _made_or_there = source.reserve_wal(&slot_name(instance, &main)).await?;
        }
        Ok(())
    }
}

/// Where main is from now on.
pub(super) fn move_main(
    document: &mut InstanceDocument,
    update: &InstanceUpdate,
) -> Result<(), Refusal> {
    let Some(dsn) = &update.dsn else {
        return Ok(());
    };
    let _registered = main_of(document)?;
    if let Some(Branch::Active(main)) = document.branches.get_mut(&BranchName::main()) {
        main.dsn = dsn.clone();
    }
    Ok(())
}

fn main_of(document: &InstanceDocument) -> Result<&ActiveBranch, Refusal> {
    let main = BranchName::main();
    let branch = document.branches.get(&main).and_then(Branch::active);
    branch.ok_or_else(|| Refusal::no_such_branch(&document.instance, &main))
}

fn check_cluster(
    instance: &InstanceName,
    registered: &ActiveBranch,
    found: SystemIdentifier,
) -> Result<(), Refusal> {
    let known = registered.system_identifier;
    if known == found {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalCode::UnsuitableSource,
        format!(
            "that is another cluster: its system identifier is {found}, and {instance} is the one with {known}"
        ),
        "Give the URI of the same cluster, or protect this one under a name of its own with `zektor instance add`.",
    ))
}
