//! The commit-time index: what the WAL says of when, as pure values.
//!
//! Built record by record while WAL streams, or from archived WAL at any later time, with the same result. It answers
//! "which is the last transaction that ended not later than T?" and "when exactly was it dropped?". Facts come from WAL
//! alone; names of relations are joined when somebody asks.
