//! Wire client for PostgreSQL's physical replication: WAL streams, base backups, slots, and plain
//! queries, over TCP, TLS or a Unix socket.
//!
//! It knows nothing of files, object stores or queues. What must stay true: nothing read is ever
//! lost by a dropped future of the streams; memory is bounded whatever the server sends; no
//! password reaches an error text, a log or an open network.

mod base_backup;
mod connect;
mod error;
mod login;
mod replication;
mod session;
mod settings;
mod sql;
mod tls;
mod wal_stream;
mod wire;

pub use base_backup::{
    BackupEnd, BackupMessage, BackupStart, BaseBackupOptions, BaseBackupStream, Tablespace,
};
pub use error::{PgError, SQLSTATE_DATA_CORRUPTED, ServerMessage};
pub use replication::{
    HistoryFile, OLDEST_MAJOR, ReplicationConnection, ReserveWal, SlotCreation, SlotRemoval,
    SlotState, SystemIdentity,
};
pub use settings::{
    ChannelBinding, ConnectionSettings, DEFAULT_CONNECT_TIMEOUT, DsnError, RootCertificates,
    SslMode,
};
pub use sql::{Row, SqlConnection, quote_identifier, quote_literal};
pub use wal_stream::{StatusUpdate, WalMessage, WalStream};

#[cfg(test)]
mod tests {
    use super::*;

    fn send<T: Send>(_: T) {}

    /// The services spawn tasks around these; nothing here runs.
    #[test]
    fn everything_may_move_between_threads() {
        let _ = |settings: &ConnectionSettings| send(SqlConnection::connect(settings));
        let _ = |settings: &ConnectionSettings| send(ReplicationConnection::connect(settings));
        let _ = |connection: &mut SqlConnection| send(connection.query(""));
        let _ = |stream: &mut WalStream| send(stream.next());
        let _ = |stream: &mut WalStream, status| send(stream.send_status(status));
        let _ = |stream: &mut BaseBackupStream| send(stream.next());
        let _ = |connection: ReplicationConnection, options| send(connection.base_backup(options));
    }
}
