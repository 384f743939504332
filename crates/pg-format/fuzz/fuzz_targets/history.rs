//! Timeline history files.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_format::{Lsn, TimelineHistory, TimelineId};

fuzz_target!(|input: &[u8]| {
    let Some(([timeline], text)) = input.split_first_chunk::<1>() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let Ok(history) = TimelineHistory::parse(TimelineId(u32::from(*timeline)), text) else {
        return;
    };
    let _ = history.timeline_at(Lsn(0));
    let _ = history.timeline_at(Lsn(u64::MAX));
    let _ = history.path();
    let _ = history.fork(TimelineId(u32::from(*timeline) + 1), Lsn(u64::MAX), "x");
});
