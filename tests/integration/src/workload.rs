//! Concurrent sessions that do what databases do: commits, rollbacks, savepoints, prepared transactions.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use pg_replication::{ConnectionSettings, SqlConnection};
use testkit::postgres::Postgres;

/// All rows of the workload's table, as one digest and a count.
pub const WORKLOAD_DIGEST: &str = "SELECT count(*) || ' ' || coalesce(md5(string_agg(w::text, ',' ORDER BY id)), '-') \
     FROM work w";

/// Makes the workload's table.
///
/// # Errors
/// When the server refuses.
pub async fn create(postgres: &Postgres) -> Result<()> {
    let table =
        "CREATE TABLE work (id text PRIMARY KEY, version int NOT NULL DEFAULT 0, note text)";
    let _output = postgres.psql(table).await?;
    Ok(())
}

/// One session's transactions until `stop`, chosen by `seed`. Leaves no prepared transaction behind.
///
/// # Errors
/// When a statement fails.
pub async fn session(postgres: &Postgres, seed: u64, stop: &AtomicBool) -> Result<u64> {
    let settings = ConnectionSettings::parse(&postgres.dsn())?;
    let mut connection = SqlConnection::connect(&settings).await?;
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        for statement in transaction(seed, number, &mut dice) {
            let _rows = connection.query(&statement).await?;
        }
        tokio::time::sleep(std::time::Duration::from_micros(dice.below(4000))).await;
    }
    Ok(number)
}

/// The statements of one transaction.
fn transaction(seed: u64, number: u64, dice: &mut Dice) -> Vec<String> {
    let (id, gid) = (format!("{seed}-{number}"), format!("g-{seed}-{number}"));
    let insert = |part: &str| {
        format!("INSERT INTO work (id, note) VALUES ('{id}-{part}', repeat('{part}', 40))")
    };
    let other = format!("{seed}-{}", 1 + dice.below(number));
    let mut statements = vec!["BEGIN".to_owned(), insert("a")];
    if dice.below(3) == 0 {
        statements.push(format!(
            "UPDATE work SET version = version + 1 WHERE id LIKE '{other}-%'"
        ));
    }
    if dice.below(3) == 0 {
        let ending = match dice.below(2) {
            0 => "ROLLBACK TO s".to_owned(),
            _ => "RELEASE s".to_owned(),
        };
        statements.extend(["SAVEPOINT s".to_owned(), insert("b"), ending]);
    }
    match dice.below(10) {
        0..=5 => statements.push("COMMIT".to_owned()),
        6 | 7 => statements.push("ROLLBACK".to_owned()),
        8 => statements.extend([
            format!("PREPARE TRANSACTION '{gid}'"),
            format!("COMMIT PREPARED '{gid}'"),
        ]),
        _ => statements.extend([
            format!("PREPARE TRANSACTION '{gid}'"),
            format!("ROLLBACK PREPARED '{gid}'"),
        ]),
    }
    statements
}

/// Numbers that look random and are the same for the same seed (xorshift).
pub struct Dice(pub u64);

impl Dice {
    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit.max(1)
    }
}
