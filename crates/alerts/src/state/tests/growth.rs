//! What the repository takes.

use super::*;

#[test]
fn a_day_of_wal_that_is_much_larger_than_the_busiest_of_the_week_before_is_told() {
    let day = 1440;
    let grown = |sizes: &[(i64, u64)]| {
        let mut days = Vec::new();
        let steps = sizes.iter().map(|(number, size)| {
            days.push((at(number * day), *size));
            (number * day + 60, Some(Fact::WalStored(days.clone())))
        });
        tell(steps.collect())
    };
    // A weekly batch is as it was the week before.
    let weeks: Vec<_> = (0..30)
        .map(|n| (n, if n % 7 == 0 { 90 * GIB } else { GIB }))
        .collect();
    assert_eq!(grown(&weeks), [""; 0]);
    assert_eq!(grown(&[(0, GIB), (1, GIB), (2, 9 * GIB)]), [""; 0]);
    let mib = GIB / 1024;
    assert_eq!(
        grown(&[(0, mib), (1, mib), (2, mib), (3, 9 * mib)]),
        [""; 0]
    );
    let days = [
        (0, GIB),
        (1, 2 * GIB),
        (2, GIB),
        (3, 7 * GIB),
        (4, GIB),
        (5, GIB),
    ];
    assert_eq!(
        grown(&days),
        ["4380 +storage_growth warning", "7260 -storage_growth"]
    );
    // Looked at again while the day goes on, and when retention has pruned the days before.
    let (before, pruned) = ([GIB, GIB, GIB, GIB], [0, 0, GIB, 4 * GIB]);
    let stored = |sizes: [u64; 4]| {
        let days = (0..)
            .zip(sizes)
            .map(|(number, size)| (at(number * day), size));
        Some(Fact::WalStored(days.collect()))
    };
    check(
        vec![
            (4400, stored(before)),
            (4500, stored(pruned)),
            (4600, stored(before)),
        ],
        &["4500 +storage_growth warning"],
    );
}

#[test]
fn a_backup_that_is_much_larger_than_those_before_it_is_told() {
    let grown = |sizes: &[u64]| {
        let steps = sizes
            .iter()
            .zip(1..)
            .map(|(size, n)| (n, Some(completed(u128::try_from(n).unwrap(), *size))));
        tell(steps.collect())
    };
    assert_eq!(grown(&[1, 1, 1, GIB]), [""; 0]);
    assert_eq!(grown(&[GIB, GIB, 4 * GIB]), [""; 0]);
    assert_eq!(
        grown(&[GIB, GIB, GIB, 4 * GIB, GIB]),
        ["4 +storage_growth warning", "5 -storage_growth"]
    );
    assert_eq!(grown(&[GIB, GIB, GIB, 3 * GIB]), [""; 0]);
}
