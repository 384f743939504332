//! An ordinary connection, for the few questions that the replication protocol cannot answer.

use pg_format::ServerVersion;

use crate::error::PgError;
use crate::session::{Purpose, RawRow, Session};
use crate::settings::ConnectionSettings;

/// An ordinary connection, simple query protocol only: values go into the text, quoted with
/// [`quote_literal`] and [`quote_identifier`]. Dates come as ISO in UTC.
///
/// A query whose future was dropped before its end makes the connection unusable.
pub struct SqlConnection {
    session: Session,
}

impl SqlConnection {
    /// Connects and logs in within the settings' limits.
    pub async fn connect(settings: &ConnectionSettings) -> Result<Self, PgError> {
        let session = Box::pin(Session::connect(settings, Purpose::Sql)).await?;
        Ok(SqlConnection { session })
    }

    /// Runs one or more statements; the rows of the last one. At most 64 MiB.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>, PgError> {
        let rows = self.session.query(sql, "running a query").await?;
        rows.into_iter().map(Row::checked).collect()
    }

    /// The server's version.
    #[must_use]
    pub fn server_version(&self) -> ServerVersion {
        self.session.version()
    }

    /// Says good-bye; merely dropping the connection leaves a line in the server's log.
    pub async fn close(self) {
        self.session.wire.terminate().await;
    }
}

/// One row, every value as text.
#[derive(Clone, Debug)]
pub struct Row(RawRow);

impl Row {
    fn checked(raw: RawRow) -> Result<Self, PgError> {
        for index in 0..raw.values.len() {
            let _ = raw.optional_text(index)?;
        }
        Ok(Row(raw))
    }

    /// The value of a column, from 0; `None` for NULL and for a column that is not there.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&str> {
        self.0.optional_text(index).ok().flatten()
    }

    /// The value of the first column with this name.
    #[must_use]
    pub fn get_named(&self, name: &str) -> Option<&str> {
        self.get(self.0.columns.iter().position(|column| column == name)?)
    }

    /// The names of the columns.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.0.columns
    }
}

/// `text` as an SQL string constant, whatever `standard_conforming_strings` says.
#[must_use]
pub fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!(" E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

/// `name` as an SQL identifier, exactly as it is written.
#[must_use]
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::{quote_identifier, quote_literal};

    #[test]
    fn quoting() {
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal(r"a\'b"), r" E'a\\''b'");
        assert_eq!(quote_identifier("a\"b"), "\"a\"\"b\"");
    }
}
