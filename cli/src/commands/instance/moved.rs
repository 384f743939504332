//! `zektor instance update --dsn`: the server of an instance has moved.

use events::document::{ActiveBranch, Branch, slot_name};
use events::{ArchiveMode, BranchName, InstanceName, SealedSecret};
use pg_replication::ConnectionSettings;
use service::seal::dsn_context;

use crate::failure::Failure;
use crate::session::Session;

/// From where to where it moves.
pub(super) struct Moving {
    /// Sealed, as it is sent.
    pub(super) dsn: SealedSecret,
    to: ConnectionSettings,
    /// As far as it can be known from here.
    from: Option<ConnectionSettings>,
    archive_mode: ArchiveMode,
}

/// Seals where the instance is to be.
pub(super) async fn moving(
    session: &Session,
    instance: &InstanceName,
    uri: &str,
) -> Result<Moving, Failure> {
    let main = BranchName::main();
    let context = dsn_context(instance, &main);
    let dsn = session.master_key()?.seal(uri, &context)?;
    let to = ConnectionSettings::parse(uri)
        .map_err(|error| Failure::local("the connection uri cannot be used", &error))?;
    let registered = registered(session, instance).await?;
    let from = registered.as_ref().and_then(|main_branch| {
        let uri = session.open_dsn(instance, &main, &main_branch.dsn).ok()?;
        ConnectionSettings::parse(&uri).ok()
    });
    Ok(Moving {
        dsn,
        to,
        from,
        archive_mode: registered.map(|main| main.archive_mode).unwrap_or_default(),
    })
}

async fn registered(
    session: &Session,
    instance: &InstanceName,
) -> Result<Option<ActiveBranch>, Failure> {
    let found = session.bus.instances().get(instance).await?;
    let main = found.and_then(|(mut document, _)| document.branches.remove(&BranchName::main()));
    Ok(match main {
        Some(Branch::Active(main)) => Some(main),
        _ => None,
    })
}

impl Moving {
    pub(super) fn text(&self, instance: &InstanceName) -> String {
        let (host, port) = place(&self.to);
        format!(
            "{instance} is backed up and archived from {host}:{port} from now on. If WAL is missing in between, a backup is \
             taken by itself; see `zektor window {instance}`.\n"
        )
    }

    /// A server that is left behind with the slot keeps its WAL for ever.
    pub(super) fn warning(&self, instance: &InstanceName) -> Option<String> {
        let from = self.from.as_ref()?;
        let stays = place(from) == place(&self.to) || self.archive_mode == ArchiveMode::Command;
        if stays {
            return None;
        }
        let (host, port) = place(from);
        let slot = slot_name(instance, &BranchName::main());
        Some(format!(
            "if {host}:{port} is another server and still runs, its slot holds WAL until its disk is full; run there: \
             SELECT pg_drop_replication_slot('{slot}')"
        ))
    }
}

fn place(settings: &ConnectionSettings) -> (&str, u16) {
    (settings.host(), settings.port())
}

#[cfg(test)]
mod tests {
    use events::{ArchiveMode, InstanceName, SealedSecret};
    use pg_replication::ConnectionSettings;

    use super::Moving;

    #[test]
    fn a_slot_that_is_left_behind_is_told_of() {
        let orders = InstanceName::new("orders").unwrap();
        let settings = |uri: &str| ConnectionSettings::parse(uri).unwrap();
        let told = |from: Option<&str>, archive_mode| {
            let moving = Moving {
                dsn: SealedSecret::from_base64(String::new()),
                to: settings("postgres://u:s3cret@new:5432/db"),
                from: from.map(settings),
                archive_mode,
            };
            assert!(moving.text(&orders).contains("from new:5432 from now on"));
            moving.warning(&orders)
        };
        let elsewhere = Some("postgres://u:s3cret@old:5433/db");
        let warning = told(elsewhere, ArchiveMode::Stream).unwrap();
        assert!(
            warning.contains("if old:5433 is another server"),
            "{warning}"
        );
        assert!(
            warning.contains("pg_drop_replication_slot('zektor_orders_main"),
            "{warning}"
        );
        assert!(!warning.contains("s3cret"), "{warning}");
        let same = Some("postgres://u:other@new:5432/other");
        assert_eq!(told(same, ArchiveMode::Stream), None);
        assert_eq!(told(elsewhere, ArchiveMode::Command), None);
        assert_eq!(told(None, ArchiveMode::Stream), None);
    }
}
