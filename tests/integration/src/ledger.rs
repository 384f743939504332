//! A table whose every state is remembered: the oracle that a restored branch is compared with.
//!
//! One writer commits small transactions; after each it notes the commit's time and position and a digest
//! of *all rows*. Any moment of the past has exactly one right answer.

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use pg_format::Lsn;
use pg_replication::{ConnectionSettings, SqlConnection};
use testkit::postgres::Postgres;

/// All rows, in order, as one digest and a count. Also run by `psql` on restored branches.
pub const DIGEST: &str = "SELECT count(*) || ' ' || coalesce(md5(string_agg(l::text, ',' ORDER BY id)), '-') \
     FROM ledger l";

/// The state after one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// The transaction's number.
    pub number: u64,
    /// Its commit time, as PostgreSQL recorded it.
    pub committed_at: DateTime<Utc>,
    /// The end of WAL after the commit.
    pub lsn: Lsn,
    /// All rows after the commit.
    pub digest: String,
}

/// The writer and what it remembers.
pub struct Ledger {
    connection: SqlConnection,
    points: Vec<Point>,
}

impl Ledger {
    /// Makes the table. The server must run with `track_commit_timestamp = on`.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn create(postgres: &Postgres) -> Result<Ledger> {
        let settings = ConnectionSettings::parse(&postgres.dsn())?;
        let mut connection = SqlConnection::connect(&settings).await?;
        let _rows = connection
            .query(
                "CREATE TABLE ledger (id bigint PRIMARY KEY, version bigint NOT NULL, \
                 noted_at timestamptz NOT NULL DEFAULT clock_timestamp(), payload text NOT NULL)",
            )
            .await?;
        let mut ledger = Ledger {
            connection,
            points: Vec::new(),
        };
        ledger.write(1).await?;
        Ok(ledger)
    }

    /// Connects again, after the server was away.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn reconnect(&mut self, postgres: &Postgres) -> Result<()> {
        self.connection =
            SqlConnection::connect(&ConnectionSettings::parse(&postgres.dsn())?).await?;
        Ok(())
    }

    /// Commits `count` transactions, each with an insert, and an update or a delete of earlier rows.
    ///
    /// # Errors
    /// When the server refuses or goes away.
    pub async fn write(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            let number = self.points.last().map_or(1, |point| point.number + 1);
            let point = self.commit(number).await?;
            self.points.push(point);
        }
        Ok(())
    }

    async fn commit(&mut self, number: u64) -> Result<Point> {
        let other = number * 7919 % number.max(2);
        let change = match number % 3 {
            0 => format!("DELETE FROM ledger WHERE id = {other}"),
            _ => format!("UPDATE ledger SET version = version + {number} WHERE id = {other}"),
        };
        // The statements of one simple-protocol message are one transaction.
        let sql = format!(
            "INSERT INTO ledger (id, version, payload) VALUES ({number}, 0, repeat(md5('{number}'), 20)); \
             {change}; SELECT txid_current()::text"
        );
        let rows = self.connection.query(&sql).await?;
        let xid = rows
            .last()
            .and_then(|row| row.get(0))
            .context("no xid")?
            .to_owned();
        let sql = format!(
            "SELECT (extract(epoch FROM pg_xact_commit_timestamp('{xid}'::xid)) * 1000000)::bigint, \
             pg_current_wal_insert_lsn(), ({DIGEST})"
        );
        let rows = self.connection.query(&sql).await?;
        let row = rows.first().context("no state")?;
        let field = |index| row.get(index).context("a state without all its parts");
        Ok(Point {
            number,
            committed_at: DateTime::from_timestamp_micros(field(0)?.parse()?).context("a time")?,
            lsn: field(1)?.parse()?,
            digest: field(2)?.to_owned(),
        })
    }

    /// Every state so far, in order.
    #[must_use]
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// The latest state.
    ///
    /// # Panics
    /// Never; creating a ledger commits once.
    #[must_use]
    pub fn last(&self) -> &Point {
        self.points.last().expect("a ledger has a state")
    }

    /// The state that PostgreSQL's rule gives for a time: the last commit not later than it.
    #[must_use]
    pub fn at(&self, time: DateTime<Utc>) -> Option<&Point> {
        self.points.iter().rfind(|point| point.committed_at <= time)
    }
}
